# An Apple GPU. fp32: half precision gave NaN there (nanoGPT issues 136, 167). Not measured here.
device = "mps"
dtype = "float32"
compile = False
memory_gb = 8.0
