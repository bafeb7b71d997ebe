# A node of A100s, 40 GB each. This version trains on one of them. Not measured here.
device = "cuda"
dtype = "bfloat16"
compile = True
memory_gb = 40.0
