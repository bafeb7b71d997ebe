# Two minutes on two CPU cores: lyrics-base, which knows English verse, learns the songs of the
# artists you love.
#
#   python -m backend.data.binarize --data_dir=data/lyrics --tokenizer=lyrics-base
#   python -m backend.training.train config/finetune_lyrics_base.py
#
# 8 sequences x 512 tokens x 1 micro-batch = 4,096 tokens/step; 120 steps = 0.49 M tokens.
# At 330,000 tokens to train on, a million characters: 81 steps an epoch, 1.49 epochs. The demo
# songbook is read 16 times, and the best step on the songs that are held out is the one kept.
# 6.8 M parameters (vocabulary of 4,096), those of config/train_lyrics_base.py.
# Expected: 1.47 bits per character on the demo songbook, measured, where the base as it is has 1.58
# and training from scratch in as long 2.44. Minutes: 2 on two cores with bf16.
#
# Small steps: at 5 times these rates, in rows of 256, validation rose from the first step on. Rows
# as long as the base has read, most songs whole; half of that cost 0.1 bits. Dropout cost a third
# of the speed and won nothing in two minutes.
#
# auto with a base: the same command begins, goes on after a stop, and knows when it is done.

dataset = "lyrics/lyrics-base"
out_dir = "out/lyrics"
init_from = "auto"
base = "lyrics-base"

block_size = 512

tokens_per_step = 4096
batches = "songs"

optimizer = "muon"  # as the base was made
muon_lr = 8e-4
learning_rate = 2e-4
schedule = "linear"
min_lr = 0.0
max_iters = 120
warmup_iters = 10
beta2 = 0.99  # few tokens per step
weight_decay = 0.0
grad_clip = 0.0

eval_interval = 20
log_interval = 10
patience = 2
