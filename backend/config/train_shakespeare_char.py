# nanoGPT's baby GPT: Shakespeare, character by character. A good first test of a GPU.
#
#   python -m backend.data.corpora --corpus=tinyshakespeare
#   python -m backend.training.train config/train_shakespeare_char.py
#
# 64 sequences x 256 characters x 1 micro-batch = 16,384 tokens/step; 5,000 steps = 81.9 M tokens.
# 1,003,854 tokens to train on: 61.3 steps an epoch, 82 epochs, so it overfits and the best step,
# near 2,000, is kept. 10.7 M parameters at a vocabulary of 67 (65 characters and two of ours).
# Expected: 1.4697 nats, 2.12 bits/char (nanoGPT's README); not measured here. Ours may come out
# lower: it scores the whole split, and each token sees half a block or more, where nanoGPT drew
# 200 random batches of whole blocks. Minutes: 3 on an A100 (the same); not measured here.
#
# On a CPU, nanoGPT's smaller one: 1.88 nats by its README, 1.898 over the whole split, measured
# with nanoGPT itself in 2 to 3 minutes on 2 cores:
#
#   python -m backend.training.train config/train_shakespeare_char.py --block_size=64 --n_layer=4
#     --n_head=4 --n_embd=128 --dropout=0 --tokens_per_step=768 --max_iters=2000

dataset = "tinyshakespeare/char"
out_dir = "out/shakespeare-char"

block_size = 256
n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
bias = False
activation = "gelu"

tokens_per_step = 16_384

learning_rate = 1e-3  # small networks can afford more
min_lr = 1e-4
max_iters = 5000
warmup_iters = 100  # nanoGPT: not super necessary
beta2 = 0.99  # few tokens per step

eval_interval = 250  # it overfits: look often
log_interval = 10
always_save_checkpoint = False
