"""Reads a file by the format's own Python package and says what is in it, for write_test.c to compare:
read_back.py types | gguf FILE | safetensors FILE. Exit code 3: the package is not installed."""
import hashlib
import json
import struct
import sys

try:
    import gguf
    import safetensors
except ImportError:
    sys.exit(3)


def of_gguf(path):
    reader = gguf.GGUFReader(path)
    for name, field in sorted(reader.fields.items()):
        if name.startswith("GGUF."):
            continue
        kinds = [t.name for t in field.types]
        if kinds == ["STRING"]:
            print(name, "STRING", bytes(field.parts[field.data[0]]).decode())
        elif kinds[-1] == "STRING":
            print(name, "ARRAY STRING", *(bytes(field.parts[i]).decode() for i in field.data))
        else:
            print(name, *kinds, *(f"{field.parts[i][0].item():g}" for i in field.data))
    for t in sorted(reader.tensors, key=lambda t: t.name):
        print(t.name, t.tensor_type.name, *map(int, t.shape), hashlib.sha256(t.data.tobytes()).hexdigest())


def of_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    with open(path, "rb") as f:
        known = safetensors.deserialize(f.read())  # the package's own checks of the whole file
    n = struct.unpack("<Q", data[:8])[0]
    for key, value in sorted(json.loads(data[8:8 + n]).get("__metadata__", {}).items()):
        print("metadata", key, value)
    for name, t in sorted(known):
        print(name, t["dtype"], *t["shape"], hashlib.sha256(bytes(t["data"])).hexdigest())


if sys.argv[1] == "types":
    print(*(t.name for t in gguf.GGMLQuantizationType))
elif sys.argv[1] == "gguf":
    of_gguf(sys.argv[2])
else:
    of_safetensors(sys.argv[2])
