"""An encoder, ours or anybody's -> what other tools read: torchvision's and timm's names, safetensors, ONNX, and Python's own."""
