# How well OpenAI's own GPT-2 writes OpenWebText: 124.4 M parameters (vocabulary of 50,257).
#
#   python -m backend.data.corpora --corpus=openwebtext --tokenizer=gpt2
#   python -m backend.training.train config/eval_gpt2.py
#
# 8 sequences x 1,024 tokens x 1 micro-batch = 8,192 tokens/step, and no step is taken.
# Expected: training 3.11, validation 3.12 nats/token (nanoGPT's README, 500 random batches of 8);
# not measured here. Ours should be a little lower: the whole split is scored, text by text, with
# half a block or more before each token; a random window begins in the middle of a text.
# eval_iters is nanoGPT's, and estimates the training loss beside it. Minutes: not measured here.

dataset = "openwebtext/gpt2"
out_dir = "out/eval-gpt2"
init_from = "gpt2"
eval_only = True
eval_iters = 500

tokens_per_step = 8192

max_iters = 0
warmup_iters = 0
