# GPT-2's weights under pointwise attention: homomorphic-attention's PA, on OpenWebText.
#
#   python -m backend.data.corpora --corpus=openwebtext --tokenizer=gpt2
#   python -m backend.training.train config/pa.py --attn_type=PA_gelu
#
# The others are PA_relu, PA_sigmoid, PA_square and PA_relu-square, each with an --out_dir.
#
# 12 sequences x 1,024 tokens x 40 micro-batches = 491,520 tokens/step; 3,000 steps = 1,475 M
# tokens. 9,035,582,198 tokens to train on: 18,383 steps an epoch, a sixth of one. 124.4 M
# parameters (vocabulary of 50,257).
# Expected: not known. Their mask stood after the function and made nearly every row NaN, so no
# figure can come from that code; not measured here. The loss begins high: the weights were
# trained for softmax. Minutes: not measured here.
#
# Their values. They divided by the length of the input, --attn_scale=T, which changes earlier rows
# as a text grows; our default divides by the tokens seen. Shape and activation are GPT-2's, from
# the weights. Validation scores the whole split, where they drew 100 random batches.

dataset = "openwebtext/gpt2"
out_dir = "out/pa"
init_from = "gpt2"

attn_type = "PA_gelu"

tokens_per_step = 491_520

learning_rate = 6e-4
min_lr = 6e-5
max_iters = 3000
warmup_iters = 500

eval_interval = 100
log_interval = 10
