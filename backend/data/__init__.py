"""Songs, cleaning, tokenizers and bins: from raw songs to batches of token ids."""
