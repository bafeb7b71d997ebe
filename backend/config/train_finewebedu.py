# GPT-2 small on ten billion tokens of FineWeb-Edu: Allen Porter's nano-gpt.
#
#   python -m backend.data.corpora --corpus=finewebedu --tokenizer=gpt2 --val_fraction=0.0005
#   torchrun --standalone --nproc_per_node=8 -m backend.training.train config/train_finewebedu.py
#     --profile=a100_node
#
# 64 sequences x 1,024 tokens x 8 micro-batches = 524,288 tokens/step; 19,073 steps = 10,000 M
# tokens, one epoch. 124.4 M parameters (vocabulary of 50,257).
# Expected: validation 3.0538, training 3.0701 nats (theirs). They held out 3 % and scored 20
# batches from its beginning, and their initial weights differ from GPT-2's, so ours will not be
# equal; not measured here. Minutes: theirs took 130 on 8 A100s; not measured here.
#
# Their values; GPT-2's own biases and GELU. Validation scores the whole split, hence so small a
# one above: a hundredth, our default, would be 100 M tokens, and longer to score than to train on.
# Their other sizes: --preset=gpt2-medium --learning_rate=3e-4 --min_lr=3e-5; gpt2-large 2.5e-4;
# gpt2-xl 2e-4 with --tokens_per_step=1048576; xs 3e-4 with 262144; xxs 3e-4 with 65536.

dataset = "finewebedu/gpt2"
out_dir = "out/finewebedu"

block_size = 1024
n_layer = 12
n_head = 12
n_embd = 768

tokens_per_step = 524_288

learning_rate = 6e-4
min_lr = 6e-5
max_iters = 19_073
warmup_iters = 715

eval_interval = 250
log_interval = 10
