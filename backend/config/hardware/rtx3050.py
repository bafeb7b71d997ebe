# NVIDIA RTX 3050, 8 GB (Ampere has bf16; give --memory_gb=4 for the laptop card). Not measured
# here.
device = "cuda"
dtype = "bfloat16"
compile = True
memory_gb = 8.0
