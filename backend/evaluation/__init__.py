"""Numbers about a model: (model, tokenizer, data) in, figures out."""
