# Two minutes on two CPU cores: lyrics-base, which knows English verse, learns the songs of the
# artists you love.
#
#   python -m backend.data.binarize --data_dir=data/lyrics --tokenizer=lyrics-base
#   python -m backend.training.train config/finetune_lyrics_base.py
#
# 8 sequences x 256 tokens x 1 micro-batch = 2,048 tokens/step; 300 steps = 0.61 M tokens.
# At 330,000 tokens to train on, a million characters: 161 steps an epoch, 1.86 epochs. The demo
# songbook is read 26 times, and the best step on the songs that are held out is the one kept.
# 6.8 M parameters (vocabulary of 4,096), those of config/train_lyrics_base.py; rows of 256 tokens,
# half of what the base has read, so that twice as many steps fit.
# Expected: not known yet. Minutes: 2 on two cores with bf16, from 290 microseconds of one core
# measured for a token.
#
# auto with a base: the same command begins, goes on after a stop, and knows when it is done.

dataset = "lyrics/lyrics-base"
out_dir = "out/lyrics"
init_from = "auto"
base = "lyrics-base"

block_size = 256
dropout = 0.1

tokens_per_step = 2048
batches = "songs"

optimizer = "muon"  # as the base was made
muon_lr = 0.004
learning_rate = 1e-3
schedule = "linear"
min_lr = 0.0
max_iters = 300
warmup_iters = 10
beta2 = 0.99  # few tokens per step
weight_decay = 0.0
grad_clip = 0.0

eval_interval = 50
log_interval = 10
patience = 2
