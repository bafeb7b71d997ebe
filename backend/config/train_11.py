# One layer, one head, Gaussian kernel: homomorphic-attention's smallest model, on TinyStories.
#
#   python -m backend.data.corpora --corpus=tinystories --tokenizer=gpt2
#   python -m backend.training.train config/train_11.py
#
# 12 sequences x 1,024 tokens x 40 micro-batches = 491,520 tokens/step; 10,000 steps = 4,915 M
# tokens. TinyStories has somewhat under half a billion, not counted here: about ten epochs.
# 46.5 M parameters (vocabulary of 50,257), most of them the embedding.
# Expected: they published no figure for any kind of attention; not measured here. Minutes: not
# measured here. With one head of 768 the kernel's weights begin near 2e-4, so it learns slowly at
# first; --attn_scale=row is better in our small comparison (docs/benchmarks.md).
#
# Their values. Other kinds: --attn_type=SM, GKpoly-8, PA_gelu, ... Validation scores the whole
# split, where they drew 100 random batches.

dataset = "tinystories/gpt2"
out_dir = "out/train-11"

block_size = 1024
n_layer = 1
n_head = 1
n_embd = 768
activation = "gelu"
attn_type = "GK"

tokens_per_step = 491_520

learning_rate = 6e-4
min_lr = 6e-5
max_iters = 10_000
warmup_iters = 500

eval_interval = 500
log_interval = 10
