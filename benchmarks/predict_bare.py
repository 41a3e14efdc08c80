"""The shortest script that classifies an image with a folder of Transformers. python predict_bare.py FOLDER IMAGE"""

import sys

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained(sys.argv[1])
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
inputs = processor(Image.open(sys.argv[2]).convert("RGB"), return_tensors="pt")
with torch.inference_mode():
    probabilities = model(**inputs).logits.softmax(-1)[0]
best = int(probabilities.argmax())
print(f"{sys.argv[2]}: {model.config.id2label[best]} {float(probabilities[best]):.1%}")
