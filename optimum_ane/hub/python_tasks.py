"""The lines of a card's Python that call a loaded model, task by task.

`{text}`, `{other}` and `{masked}` stand for example texts, `{products}` for what the product of two embeddings is;
other braces are doubled. The names `model`, `tokenizer` (of images and sounds `processor`) and, for a task with a
pipeline, `pipeline` are there already.
"""

TEXT_CLASSIFICATION = """\
classify = pipeline("text-classification", model=model, tokenizer=tokenizer, truncation=True)
print(classify({text}))"""

TOKEN_CLASSIFICATION = """\
label = pipeline("token-classification", model=model, tokenizer=tokenizer)
print(label("Ada Lovelace was born in London."))"""

FILL_MASK = """\
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
print(fill({masked}))"""

QUESTION_ANSWERING = """\
question, context = "Where was she born?", "Ada Lovelace was born in London."
inputs = tokenizer(question, context, truncation="only_second", return_tensors="pt")
outputs = model(**inputs)
start, end = int(outputs.start_logits.argmax()), int(outputs.end_logits.argmax())
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))"""

MULTIPLE_CHOICE = """\
prompt, choices = "It rained, so she", ["took an umbrella.", "watered the garden."]
inputs = tokenizer([prompt] * len(choices), choices, truncation=True, padding=True, return_tensors="pt")
scores = model(**{{name: value[None] for name, value in inputs.items()}}).logits  # (1, choices)
print(choices[int(scores.argmax())])"""

FEATURE_EXTRACTION = """\
inputs = tokenizer([{text}], truncation=True, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)  # (texts, tokens, width)"""

SENTENCE_EMBEDDING = """\
texts = [{text}, {other}]
inputs = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
embeddings = model(**inputs).pooler_output  # (texts, width)
print(embeddings @ embeddings.T)  # {products}"""

TEXT_GENERATION = """\
inputs = tokenizer([{text}], truncation=True, return_tensors="pt")
scores = model(**inputs).logits[0, -1]  # of each word to follow the text
print(tokenizer.decode(scores.argmax()))"""

TEXT_TO_TEXT = """\
inputs = tokenizer([{text}], truncation=True, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))"""

IMAGE_TO_TEXT = """\
from PIL import Image

tokenizer = AutoTokenizer.from_pretrained({place})
inputs = processor(Image.open("photo.jpg"), return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True))"""

CACHED_TEXT_GENERATION = """\
write = pipeline("text-generation", model=model, tokenizer=tokenizer)
print(write("Once upon a time", max_new_tokens=64)[0]["generated_text"])"""

CHAT = """\
write = pipeline("text-generation", model=model, tokenizer=tokenizer)
messages = [{{"role": "user", "content": "What is the capital of France?"}}]
print(write(messages, max_new_tokens=64)[0]["generated_text"][-1]["content"])"""

IMAGE_CLASSIFICATION = """\
classify = pipeline("image-classification", model=model, image_processor=processor)
print(classify("photo.jpg"))"""

OBJECT_DETECTION = """\
detect = pipeline("object-detection", model=model, image_processor=processor)
print(detect("photo.jpg"))"""

ZERO_SHOT_IMAGE_CLASSIFICATION = """\
processor = AutoImageProcessor.from_pretrained({place})
classify = pipeline(
    "zero-shot-image-classification", model=model, tokenizer=tokenizer, image_processor=processor
)
print(classify("photo.jpg", candidate_labels=["cat", "dog", "bird"]))"""

IMAGE_SEGMENTATION = """\
segment = pipeline("image-segmentation", model=model, image_processor=processor)
print([part["label"] for part in segment("photo.jpg")])"""

DEPTH_ESTIMATION = """\
estimate = pipeline("depth-estimation", model=model, image_processor=processor)
estimate("photo.jpg")["depth"].save("depth.png")"""

IMAGE_FEATURES = """\
from PIL import Image

inputs = processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)"""

AUDIO_CLASSIFICATION = """\
classify = pipeline("audio-classification", model=model, feature_extractor=processor)
print(classify("sound.wav"))"""

AUDIO_FEATURES = """\
import numpy as np

sound = np.zeros(processor.sampling_rate, dtype=np.float32)  # a second of silence
inputs = processor(sound, sampling_rate=processor.sampling_rate, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)"""

AUTOMATIC_SPEECH_RECOGNITION = """\
import soundfile

tokenizer = AutoTokenizer.from_pretrained({place})
transcribe = pipeline(
    "automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=processor
)
sound, rate = soundfile.read("speech.wav", dtype="float32", always_2d=True)
print(transcribe({{"raw": sound.mean(axis=1), "sampling_rate": rate}})["text"])"""
