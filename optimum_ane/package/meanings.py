"""What the inputs and outputs of packages mean, in a sentence for Xcode and the card."""

MEANINGS = {
    "input_ids": "Token ids from the checkpoint's tokenizer, padded to the full length.",
    "attention_mask": "1 for a token, 0 for padding.",
    "inputIds": "Token ids from the checkpoint's tokenizer, padded on the right to the full length.",
    "attentionMask": "1 for a token, 0 for padding.",
    "token_type_ids": "0 for the first text, 1 for the second; all 0 where there is one text.",
    "pixel_values": "Images as the checkpoint's image processor gives them: resized, rescaled and normalised.",
    "input_values": "Sound as the checkpoint's feature extractor gives it, filled up to the full length.",
    "input_features": "Spectrograms as the checkpoint's feature extractor gives them, filled up to the full length.",
    "audio": "Sound at the feature extractor's rate, between −1 and 1, filled up with silence to the full length.",
    "melspectrogram_features": "The spectrogram of a sound.",
    "encoder_output_embeds": "What the encoder gives, a vector for each position of the sound.",
    "cache_length": "Position of the token: how many columns of the cache come before it.",
    "key_cache": "Keys of each layer, a column for each token.",
    "value_cache": "Values of each layer, a column for each token.",
    "kv_cache_update_mask": "1 for the token's own column of the cache, 0 for the others.",
    "decoder_key_padding_mask": "Added to the scores of attention: 0 for columns that a token sees, −1e4 for others.",
    "key_cache_updates": "Keys of the token, for the caller to write into its column of key_cache.",
    "value_cache_updates": "Values of the token, for the caller to write into its column of value_cache.",
    "alignment_heads_weights": "How much each position of the sound is attended to, the mean of the alignment heads.",
    "alignment_weights": "How much each position of the source is attended to, for each alignment head.",
    "position": "Position of the first token: how many rows of the cache come before it.",
    "causal_mask": "Added to the scores of attention: 0 for rows of the cache that a token sees, −3e4 for the others.",
    "hidden_states": "What the program before gives, a vector for each token.",
    "output_hidden_states": "What the next program takes, a vector for each token.",
    "kv_cache": "Keys and values of each layer, a row for each token.",
    "encoder_hidden_states": "What the encoder gives, a vector for each column of the source.",
    "encoder_mask": "Added to the scores of attention to the source: 0 for its columns, −3e4 for what fills it up.",
    "cross_cache": "Keys and values of the source for each layer, a row for each column.",
    "begun": "Columns of the source that cross_cache holds now.",
    "new_rows": "Keys and values of the tokens, for the caller to write into kv_cache from position on.",
    "next_position": "Position behind the last token.",
    "logits": "Scores before softmax or sigmoid.",
    "last_hidden_state": "The last layer's hidden state at each position.",
    "sentence_embedding": "One vector for the whole text.",
    "text_embeds": "A vector of length 1 for each text, to be multiplied with those of images.",
    "image_embeds": "A vector of length 1 for each image, to be multiplied with those of texts.",
    "pixel_mask": "1 for a point of the image, 0 for what is filled up.",
    "pred_boxes": "A box for each query: centre x, centre y, width and height, as parts of the image's extents.",
    "predicted_depth": "Distance of each point, in the units of the checkpoint.",
    "class_map": "The best class of each point of the image, by its number.",
    "confidence": "The probability of each label of each box.",
    "coordinates": "Centre x, centre y, width and height of each box, as parts of the image's extents.",
    "start_logits": "Score of each token as the first of the answer.",
    "end_logits": "Score of each token as the last of the answer.",
    "position_ids": "Position of each token.",
    "current_pos": "Row of the cache that the first token is written to: how many rows come before it.",
    **{f"logits{number}": f"Part {number} of the scores before softmax." for number in range(1, 17)},
    "classLabel": "The most probable label.",
    "classLabel_probs": "The probability of each label.",
}
"""By the names of tensors."""


def meaning_of(name: str, image: str = "") -> str:
    """What an input or output means; empty where nothing is known of it.

    Args:
        name: In the program.
        image: The colour layout where it is one of Core ML's images; empty for tensors.
    """
    if image == "GRAYSCALE_FLOAT16":
        return f"{MEANINGS['predicted_depth'][:-1]}, as an image of one channel of float16."
    if image:
        return f"Image of the exported size, {image}, eight bits a channel; the program normalises it itself."
    return MEANINGS.get(name, "")
