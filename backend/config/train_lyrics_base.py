# lyrics-base: what a small model knows of English verse before it reads anybody's songs. Made once,
# in an hour and a half; config/finetune_lyrics_base.py makes it an artist's in two minutes.
#
#   python -m backend.scrapers.crawl --source=gutenberg --data_dir=data/verse
#   python -m backend.data.clean --data_dir=data/verse --max_words=3000
#   python -m backend.data.binarize --data_dir=data/verse --tokenizer=bpe \
#       --held_out=assets/verse_held_out.tsv --song_copies=2
#   python -m backend.training.train config/train_lyrics_base.py --init_from=auto
#
# 16 sequences x 512 tokens x 1 micro-batch = 8,192 tokens/step; 2,900 steps = 23.8 M tokens.
# At 23,019,569 tokens to train on: 2,810 steps an epoch, 1.03 epochs; songs and short poems stand
# in it twice. A block holds 1,500 characters: most songs whole.
# 6.8 M parameters at a vocabulary of 4,096; 13.6 MB in bf16. No table of pairs, which would double
# that: of pieces of words there are too many pairs to share 16,384 rows.
# Expected: 1.62 bits per character on the nine books held out, measured; these are the weights of
# assets/lyrics-base. Minutes: 91 on two shared cores with bf16.
#
# The size, for three hours of two cores: 8 layers would read 53 M tokens in them, 6 read 67 M, 4
# read 90 M, some of them for the eighth time; by the law of Hoffmann et al. 2022 6 layers end
# lowest, by little. The vocabulary, by characters read in one second of a core, at 6 layers: 2,048
# tokens (2.75 characters each) 10,700, 4,096 (3.05) 10,500, 8,192 (3.30) 9,100; of the first two
# the larger one sees further back.
#
# wsd with half of the run falling: it can be stopped at any time and goes on with the same command;
# resumed before step 1,450 with another max_iters, it is a shorter or longer run.

dataset = "verse/bpe4096"
out_dir = "out/lyrics-base"

preset = "modern"
bigram = 0
block_size = 512
n_layer = 6
n_head = 4
n_embd = 256

tokens_per_step = 8192
batches = "songs"

optimizer = "muon"
muon_lr = 0.012
learning_rate = 3e-3
schedule = "wsd"
cooldown = 0.5
min_lr = 0.0
max_iters = 2900
warmup_iters = 50
weight_decay = 0.1

eval_interval = 400
log_interval = 20
