"""What the inputs and outputs of packages mean, in a sentence for Xcode and the card."""

MEANINGS = {
    "input_ids": "Token ids from the checkpoint's tokenizer, padded to the full length.",
    "attention_mask": "1 for a token, 0 for padding.",
    "token_type_ids": "0 for the first text, 1 for the second; all 0 where there is one text.",
    "pixel_values": "Images as the checkpoint's image processor gives them: resized, rescaled and normalised.",
    "input_values": "Sound as the checkpoint's feature extractor gives it, filled up to the full length.",
    "input_features": "Spectrograms as the checkpoint's feature extractor gives them, filled up to the full length.",
    "position": "Position of the first token: how many rows of the cache come before it.",
    "causal_mask": "Added to the scores of attention: 0 for rows of the cache that a token sees, −3e4 for the others.",
    "hidden_states": "What the program before gives, a vector for each token.",
    "output_hidden_states": "What the next program takes, a vector for each token.",
    "kv_cache": "Keys and values of each layer, a row for each token.",
    "new_rows": "Keys and values of the tokens, for the caller to write into kv_cache from position on.",
    "next_position": "Position behind the last token.",
    "logits": "Scores before softmax or sigmoid.",
    "last_hidden_state": "The last layer's hidden state at each position.",
    "sentence_embedding": "One vector for the whole text.",
    "start_logits": "Score of each token as the first of the answer.",
    "end_logits": "Score of each token as the last of the answer.",
    "classLabel": "The most probable label.",
    "classLabel_probs": "The probability of each label.",
}
