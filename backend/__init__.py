"""lyrics-pipeline: scrape, prepare, finetune, generate."""

import os

# Waiting threads sleep instead of spinning. With another program on the cores, spinning makes small
# models train up to ten times slower; alone on them it gains a tenth. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
