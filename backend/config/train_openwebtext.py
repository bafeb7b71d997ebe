# GPT-2 small, one epoch of OpenWebText: VibeNanoChat's run.
#
#   python -m backend.data.corpora --corpus=openwebtext --tokenizer=gpt2
#   torchrun --standalone --nproc_per_node=8 -m backend.training.train config/train_openwebtext.py
#     --profile=a100_node
#
# 64 sequences x 1,024 tokens x 8 micro-batches = 524,288 tokens/step; 17,234 steps = 9,036 M
# tokens. 9,035,582,198 tokens to train on: 17,234 steps an epoch, one epoch. 124.4 M parameters
# (vocabulary of 50,257).
# Expected: they published no loss; not measured here. Minutes: they say about 420 on 8 A100s
# (350,000 tokens/s), 240 on 8 H100s; not measured here.
#
# Their values, seed included; GPT-2's own biases and GELU. They read the text in order, we draw
# windows at random. They evaluated nothing: here the whole split is scored, every 1,000 steps.

dataset = "openwebtext/gpt2"
out_dir = "out/openwebtext"

block_size = 1024
n_layer = 12
n_head = 12
n_embd = 768

tokens_per_step = 524_288

learning_rate = 6e-4
min_lr = 6e-5
max_iters = 17_234
warmup_iters = 715

eval_interval = 1000
log_interval = 10
seed = 42
