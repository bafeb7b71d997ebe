# GPT-2 learns to write songs: NanoRapGPT's finetuning. 124.0 M parameters (vocabulary of 50,257,
# positions cut to 512).
#
#   python -m backend.scrapers.crawl --source=files --path=my_lyrics --data_dir=data/lyrics
#   python -m backend.data.clean --data_dir=data/lyrics
#   python -m backend.data.binarize --data_dir=data/lyrics --tokenizer=gpt2
#   python -m backend.training.train config/finetune_lyrics.py
#
# 8 sequences x 512 tokens x 16 micro-batches = 65,536 tokens/step; 100 steps = 6.55 M tokens.
# Their 825 songs, 742 to train on, at their median of 914 tokens make about 0.7 M tokens: 10 steps
# an epoch, 10 epochs, so watch validation: the best step is the one that is kept.
# Expected: not known; they published no loss, and none was measured here. Minutes: they say under
# 10 on an RTX 3090, for the later values below; not measured here.
#
# The values of their first commit. Their last one takes gpt2-large, block_size 914 (their median
# song), dropout 0.2 and 5 steps of 32 songs: 160 of 1,305 songs, 0.12 epoch, hardly begun.
# nanoGPT ignores its warm-up where the rate is constant, so there is none here. Shape and
# activation are GPT-2's, from the weights. Validation scores every held-out song, where they drew
# 100 random batches. Little memory: --lora_rank=16 --learning_rate=3e-4 (see docs/benchmarks.md).

dataset = "lyrics/gpt2"
out_dir = "out/lyrics-gpt2"
init_from = "gpt2"

block_size = 512

tokens_per_step = 65_536

learning_rate = 3e-5
schedule = "constant"
max_iters = 100
warmup_iters = 0

eval_interval = 20
log_interval = 1
always_save_checkpoint = False
