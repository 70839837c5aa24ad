#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make tests/golden/tokenizer/*.json: token ids from llama.cpp's llama-tokenize, the oracle of our tokenizers.

    scripts/make_golden_tokens.py --llama-tokenize PATH [--smollm2 SmolLM2-135M-Instruct.Q4_1.gguf]

Needs the PyPI packages gguf and numpy. Control tokens are not parsed (--no-parse-special), as in llama-perplexity.
Each golden file says how the model it speaks of is made:
  tiny-llama.json   the embedded model, and variants of its vocabulary with metadata replaced (the strings that differ)
  smollm2.json      a model that is not in the repository (MIXBIT_SMOLLM2 names it to the test)
  spm.json          a small SentencePiece vocabulary, trained here on models/calib.txt and kept in the file
"""
import argparse
import collections
import json
import pathlib
import subprocess
import tempfile

import gguf

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/tokenizer"
TEXTS = ["models/heldout.txt", "models/calib.txt"]

STRINGS = [
    "Hello world", " leading", "trailing ", "a  b   c    d     e", "\n", "\n\n\n", " \n \n  \n", "\t\tx\t y", "tabs\tand  \t spaces",
    "It's I'm you're they've we'll he'd 'S 'T 'RE 'Ve 'LL 'D", "don't DON'T Don'T o'clock 'twas", "1234567890 12 345 6 78901",
    "3.14159, 1e-10; 0x1F", "v1.2.3-rc4", "\u00fcber na\u00efve caf\u00e9", "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u041f\u0440\u0438\u0432\u0435\u0442",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u4e2d\u6587 \ud55c\uad6d\uc5b4", "\U0001f600\U0001f44d\U0001f3fd\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301 combining a\u0308b", "\u00a0nbsp\u2003em\u3000ideographic", "\u180emvs \u180e \u200bzwsp \u0085nel", "\u017fharp '\u017f 's\u017f",
    "x" * 300, "ab" * 500, " " * 100 + "x", "\n" * 50, "\r\n a\r\n\r\n  b", "<|endoftext|> </s> <s> <|im_start|>user<|im_end|>",
    "#include <stdio.h>\nint main(void) { return 0; }\n", "!!!???...---", "$100 \u20ac50 \u00a330 100% a=b+c", "\u00bd \u00b2 \u2167 \u0663\u0664",
    b"\xff\xfe abc", b"\xc3", b"\xe2\x82", b"x\xed\xa0\x80x \xed\xbf\xbf", b"\xc0\x80", b"\xf0\x9f\x98", b"\x00\x01\x02", b"a\x80b \x80\x81",
    b"\xe2\x28\xa1 \xf0\x28\x8c\xbc", b"\xf8\x88\x80\x80\x80", "\ufeffBOM", "a\u2028b\u2029c", "\ufdfd", "\U0001d4b3\U0001d4ce", "\ufb01n", "\u0130stanbul \u01c5",
    "\u4e2d1\u65872", "1\u4e2d", "foo_bar fooBar HTTPServer", "  \u00a0 x", " '", "''s '' s", "\u2026", "a" * 20 + "1" * 20,
    "".join(map(chr, range(32, 127))), " .", "( a )", "they're 2nd 3's", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947", "a\u00adb",
    "the other, the mother. <mark>there</mark> <mark><mark>", "\u00c9COLE \u00c9cole \u00e9cole", "word\n\n  indented\n\tmore", "/path/to\\file//",
]
STRINGS = [s.encode() if isinstance(s, str) else s for s in STRINGS]

PRES = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o", "falcon", "default", "glm4", "chatglm-bpe", "starcoder"]


def fnv1a(ids):
    value = 0xCBF29CE484222325
    for i in ids:
        for byte in i.to_bytes(4, "little", signed=True):
            value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


class Oracle:
    def __init__(self, tool, folder):
        self.tool, self.text = tool, pathlib.Path(folder) / "text"

    def ids(self, model, text):
        self.text.write_bytes(text)
        out = subprocess.run([self.tool, "-m", str(model), "-f", str(self.text), "--ids", "--no-parse-special", "--no-escape",
                              "--log-disable"], capture_output=True, check=True).stdout
        return json.loads(out)

    def strings(self, model):
        return [{"hex": s.hex(), "ids": self.ids(model, s)} for s in STRINGS]

    def texts(self, model):
        rows = []
        for name in TEXTS:
            ids = self.ids(model, (ROOT / name).read_bytes())
            rows.append({"path": name, "count": len(ids), "fnv1a": fnv1a(ids), "first": ids[:64]})
        return rows


def copy_vocabulary(source, target, change):
    """A GGUF without tensors; change: key -> new value, None to drop it; "user_defined": ids that get token type 4."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or (key in change and change[key] is None):
            continue
        value, kind = field.contents(), field.types[0]
        sub = field.types[1] if kind == gguf.GGUFValueType.ARRAY else None
        if key == "tokenizer.ggml.token_type":
            for i in change.get("user_defined", []):
                value[i] = 4
        writer.add_key_value(key, change.get(key, value), kind, sub)
    write(writer)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def train_spm(size):
    """Byte-pair merges over calib.txt with scores falling by rank: the structure of a SentencePiece BPE vocabulary."""
    words = collections.Counter("\u2581" + w for w in (ROOT / "models/calib.txt").read_text().split())
    words = {tuple(w): n for w, n in words.items()}
    pieces = []
    while len(pieces) < size:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        a, b = max(pairs, key=lambda p: (pairs[p], p))
        pieces.append(a + b)
        merged = {}
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                if i + 1 < len(word) and word[i] == a and word[i + 1] == b:
                    out.append(a + b)
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] = n
        words = merged
    characters = sorted({c for w in words for p in w for c in p})
    vocabulary = [["<unk>", 0, 2], ["<s>", 0, 3], ["</s>", 0, 3]] + [[f"<0x{b:02X}>", 0, 6] for b in range(256)]
    vocabulary += [[p, -i, 1] for i, p in enumerate(dict.fromkeys(pieces))]
    vocabulary += [[c, -size - i, 1] for i, c in enumerate(characters)]
    vocabulary += [["\u00e9", -2 * size, 1], ["<mark>", -1000, 4], ["</mark>", -1000, 4], ["  ", -1000, 4], ["<|im_end|>", 0, 4]]
    return vocabulary


def write_spm(target, vocabulary, change):
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([t for t, _, _ in vocabulary])
    writer.add_token_scores([float(s) for _, s, _ in vocabulary])
    writer.add_token_types([t for _, _, t in vocabulary])
    for key, value in change.items():
        writer.add_bool(key, value)
    write(writer)


def save(name, data):
    text = json.dumps(data, indent=None, separators=(",", ":"), ensure_ascii=True)
    for mark in ('{"hex"', '{"at"', '{"path"', '{"change"', '"tokens":', '"strings":', '"texts":'):
        text = text.replace(mark, "\n" + mark)
    (OUT / name).write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-tokenize", required=True)
    parser.add_argument("--smollm2")
    a = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        oracle, model = Oracle(a.llama_tokenize, folder), pathlib.Path(folder) / "model.gguf"
        tiny = ROOT / "models/tiny-llama.f16.gguf"
        pre, bos, add = "tokenizer.ggml.pre", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"
        tokens = gguf.GGUFReader(tiny).fields["tokenizer.ggml.tokens"].contents()
        cut = [tokens.index(t) for t in ("the", "ther", "ing", ".")]
        changes = [{pre: p} for p in PRES]
        changes += [{pre: p, bos: None, add: None} for p in ("gpt-2", "llama-bpe", "glm4")]
        changes += [{add: False}, {"user_defined": cut}, {pre: None}]
        base, variants = oracle.strings(tiny), []
        for change in changes:
            copy_vocabulary(tiny, model, change)
            rows = enumerate(oracle.strings(model))
            variants.append({"change": change, "strings": [{"at": i, "ids": r["ids"]} for i, r in rows if r != base[i]]})
        save("tiny-llama.json", {"model": "models/tiny-llama.f16.gguf", "strings": base, "texts": oracle.texts(tiny),
                                 "variants": variants})
        vocabulary, variants = train_spm(500), []
        for change in ({}, {"tokenizer.ggml.add_space_prefix": False}, {add: False}):
            write_spm(model, vocabulary, change)
            variants.append({"change": change, "strings": oracle.strings(model), "texts": oracle.texts(model)})
        save("spm.json", {"tokens": vocabulary, "variants": variants})
        if a.smollm2:
            save("smollm2.json", {"model": pathlib.Path(a.smollm2).name, "strings": oracle.strings(a.smollm2), "texts": oracle.texts(a.smollm2)})


if __name__ == "__main__":
    main()
