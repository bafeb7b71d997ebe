# Any computer. fp32: safe everywhere; compile does not pay back within a short run.
device = "cpu"
dtype = "float32"
compile = False
memory_gb = 2.0
