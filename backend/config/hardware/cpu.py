# Any computer.
#
#   python -m backend.training.train config/lyrics_laptop.py --profile=cpu
#
# dtype auto: bf16 where the processor has it in hardware, about twice as fast (docs/benchmarks.md),
# else fp32. compile does not pay back within a short run. memory_gb: laptops share their memory
# with the rest of life; say more for a larger micro-batch, which changes nothing but speed.
device = "cpu"
dtype = "auto"
compile = False
memory_gb = 2.0
parallel = "auto"  # one process, or as many as torchrun starts
activation_checkpointing = False
