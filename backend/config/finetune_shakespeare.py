# nanoGPT's finetuning: GPT-2 XL learns Shakespeare, 1,557.6 M parameters (vocabulary of 50,257).
#
#   python -m backend.data.corpora --corpus=tinyshakespeare --tokenizer=gpt2
#   python -m backend.training.train config/finetune_shakespeare.py
#
# 1 sequence x 1,024 tokens x 32 micro-batches = 32,768 tokens/step; 20 steps = 0.66 M tokens.
# 301,966 tokens to train on: 9.2 steps an epoch, 2.2 epochs.
# Expected: not measured here, nor published. Minutes: not measured here. Weights, gradients and
# AdamW alone take 23 GiB: on less, --init_from=gpt2-medium (5.3) or gpt2 (1.9), or --lora_rank=16
# --learning_rate=3e-4.
#
# nanoGPT's values. It ignores its warm-up where the rate is constant, so there is none here.
# Shape and activation are GPT-2's, from the weights. Validation scores the whole split, where
# nanoGPT drew 40 random batches.

dataset = "tinyshakespeare/gpt2"
out_dir = "out/shakespeare-gpt2-xl"
init_from = "gpt2-xl"

tokens_per_step = 32_768

learning_rate = 3e-5
schedule = "constant"
max_iters = 20
warmup_iters = 0

eval_interval = 5
log_interval = 1
always_save_checkpoint = False
