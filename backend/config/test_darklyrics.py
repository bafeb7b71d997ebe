# A quick look at a DarkLyrics corpus, 3.4 M parameters: does everything work before the long run?
#
# 4 sequences x 256 characters x 1 micro-batch = 1,024 tokens/step; 1,000 steps = 1 M tokens.
# ATOM-GPT's values, but for the warm-up: theirs (2,000 steps) was longer than the run.

dataset = "darklyrics/char"
out_dir = "out/darklyrics-test"

block_size = 256
n_layer = 4
n_head = 4
n_embd = 256
dropout = 0.1

tokens_per_step = 1024

learning_rate = 1e-3
min_lr = 1e-4
max_iters = 1000
warmup_iters = 100

eval_interval = 100
log_interval = 5
always_save_checkpoint = False
