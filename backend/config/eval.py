# Score a finished run on another text: homomorphic-attention's EVAL.
#
#   python -m backend.data.corpora --corpus=openwebtext --tokenizer=gpt2
#   python -m backend.training.train config/eval.py --init_from=out/train-11
#
# --dataset=tinystories/gpt2, wikitext/gpt2 and others with the run's tokenizer; --checkpoint=last
# or a step number. Kind of attention and shape are those of the run.
#
# 8 sequences x 1,024 tokens x 1 micro-batch = 8,192 tokens/step, and no step is taken. The whole
# validation split is scored, text by text, where they drew 300 random batches of 8; eval_iters is
# theirs, and estimates the training loss beside it.
# Expected: what the run itself said, on its own text. Minutes: not measured here.

dataset = "openwebtext/gpt2"
out_dir = "out/eval"
init_from = "out/train-11"
eval_only = True
eval_iters = 300

tokens_per_step = 8192

max_iters = 0
warmup_iters = 0
