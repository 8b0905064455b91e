"""Folders that do not hold a model: every mistake is named, with the file, what was wanted and what was found."""
import json
import struct

import folders
from flambeau import Case

IDS = ["--tokens", "5,6,7"]


class BadFolders(Case):
    def wrong(self, words, name="llama", config=None, tensors=None):
        folder = folders.copy(name, config, tensors)
        self.refused(1, [str(folder), *([words] if isinstance(words, str) else words)], "score", folder, *IDS)

    def test_missing_keys(self):
        for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings",
                    "rms_norm_eps", "model_type"):
            self.wrong(["config.json", key, "missing"], config={key: None})

    def test_wrong_types(self):
        for key, value, found in (("num_hidden_layers", "3", '"3"'), ("hidden_size", 64.5, "64.5"), ("hidden_size", -1, "-1"),
                                  ("num_attention_heads", [4], "a list of 1"), ("rms_norm_eps", "x", '"x"'),
                                  ("vocab_size", 2 ** 40, "1099511627776"), ("attention_bias", 1, "1"),
                                  ("tie_word_embeddings", "no", '"no"'), ("hidden_act", 3, "3"), ("model_type", 5, "5"),
                                  ("architectures", "x", '"x"'), ("head_dim", {}, "an object")):
            self.wrong(["config.json", key, "wanted", found], config={key: value})

    def test_absurd_sizes(self):
        for key, value in (("num_attention_heads", 0), ("num_hidden_layers", 0), ("num_hidden_layers", 100000), ("hidden_size", 0),
                           ("num_key_value_heads", 3), ("num_key_value_heads", 0), ("max_position_embeddings", 0),
                           ("max_position_embeddings", 4000000000), ("intermediate_size", 4000000000), ("rms_norm_eps", -1.0)):
            self.wrong(["sizes do not make a model"], config={key: value})
        self.wrong(["vocab_size is 2147483648", "331 rows"], config={"vocab_size": 2 ** 31})
        self.wrong(["heads of width 15"], config={"head_dim": 15})
        self.wrong(["heads of width 4096"], config={"head_dim": 4096})

    def test_rope(self):
        def rope(words, name="llama", **more):
            r = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0, **more}
            self.wrong(words, name, {"rope_parameters": {k: v for k, v in r.items() if v is not None}})
        rope("does not work", factor=0.0)
        rope("does not work", factor=-2.0)
        rope("does not work", factor=None)
        rope(["factor", "number", '"nan"'], factor="nan")
        rope("does not work", rope_theta=0)
        rope(["mrope", "not supported", "longrope"], rope_type="mrope")
        rope("does not work", rope_type="llama3", low_freq_factor=0.0, high_freq_factor=4.0)
        rope("does not work", rope_type="llama3", low_freq_factor=4.0, high_freq_factor=1.0)
        rope("does not work", rope_type="yarn", beta_slow=0)
        rope("partial_rotary_factor", partial_rotary_factor=1.5)
        rope("RoPE of width", partial_rotary_factor=0.01)
        longrope = {"rope_type": "longrope", "original_max_position_embeddings": 32}
        rope(["short_factor", "8 numbers", "it has 3"], **longrope, short_factor=[1, 1, 1], long_factor=[1.0] * 8)
        rope(["short_factor", "a list of numbers"], **longrope, short_factor=["1"] * 8, long_factor=[1.0] * 8)
        rope("divisor 0", **longrope, short_factor=[0.0] * 8, long_factor=[1.0] * 8)
        rope("short_mscale", **longrope, short_factor=[1.0] * 8, long_factor=[1.0] * 8, short_mscale=1.1)

    def test_lists_of_layers(self):
        self.wrong(["layer_types", "4 are wanted", "has 3"], "gemma2", {"layer_types": ["full_attention"] * 3})
        self.wrong(["layer_types", "linear_attention"], "gemma2", {"layer_types": ["linear_attention"] * 4})
        self.wrong(["layer_types", "a list of texts"], "gemma2", {"layer_types": [1, 2, 3, 4]})
        self.wrong(["sliding_window"], "gemma2", {"sliding_window": None})
        self.wrong(["no_rope_layers", "4 numbers", "it has 2"], "smollm3", {"no_rope_layers": [1, 0]})

    def test_what_is_not_supported(self):
        for words, name, config in (
                (["model_type llamas", "nearest to it is llama", "qwen3"], "llama", {"model_type": "llamas"}),
                (["model_type zamba", "qwen3"], "llama", {"model_type": "zamba"}),
                (["LlamaForSequenceClassification"], "llama", {"architectures": ["LlamaForSequenceClassification"]}),
                (["quantization_config"], "llama", {"quantization_config": {"quant_method": "gptq"}}),
                (["hidden_act relu"], "llama", {"hidden_act": "relu"}),
                (["dual_chunk_attention_config"], "qwen2", {"dual_chunk_attention_config": {"chunk_size": 1}}),
                (["llama_4_scaling"], "mistral", {"llama_4_scaling": {"beta": 0.1}}),
                (["use_bidirectional_attention"], "gemma3", {"use_bidirectional_attention": True}),
                (["query_pre_attn_scalar"], "gemma2", {"query_pre_attn_scalar": 0}),
                (["multipliers"], "granite", {"logits_scaling": 0})):
            self.wrong(words, name, config)

    def test_tensors(self):
        good = folders.read(folders.TINY / "llama")
        q = "model.layers.1.self_attn.q_proj.weight"

        def tensors(words, change, config=None, name="llama"):
            t = dict(folders.read(folders.TINY / name))
            change(t)
            self.wrong(words, name, config, t)
        tensors("attn_q.weight is missing", lambda t: t.pop(q))
        tensors("lm_head", lambda t: t.update({"lm_head.bias": ("F32", [331], bytes(4 * 331))}))
        tensors(["output.weight is missing"], lambda t: t.pop("lm_head.weight"))
        tensors(["q_proj.weight", "[63, 64]", "[64, 64]"], lambda t: t.update({q: ("F32", [63, 64], good[q][2][:63 * 256])}))
        tensors([q, "U8", "not computed"], lambda t: t.update({q: ("U8", [64, 64], bytes(4096))}))
        tensors(["q_norm", "is not one that llama models have"],
                lambda t: t.update({"model.layers.0.adapter.q_norm.weight": ("F32", [16], bytes(64))}))
        tensors(["q_proj.bias", "is not one"], lambda t: t.update({q.replace("weight", "bias"): ("F32", [64], bytes(256))}))
        tensors(["attn_q.bias is missing"], lambda t: None, {"attention_bias": True})
        tensors(["attn_q.bias is missing"], lambda t: t.pop("model.layers.0.self_attn.q_proj.bias"), name="qwen2")
        tensors(["attn_q_norm.weight is missing"], lambda t: t.pop("model.layers.0.self_attn.q_norm.weight"), name="qwen3")
        # Buffers that old writers kept are no weights.
        folder = folders.copy("llama", tensors={**good, "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", [8], bytes(32))})
        self.ok("score", folder, *IDS)

    def test_files(self):
        folder = folders.copy("llama")
        weights, config = folder / "model.safetensors", folder / "config.json"
        data = weights.read_bytes()
        for bad, words in ((data[:7], "a header's length"), (data[:100], "the header is said to have"), (data[:-1], "do not lie"),
                           (data + b"x", "1 bytes before"), (struct.pack("<Q", 2) + b"{}", "token_embd.weight is missing")):
            weights.write_bytes(bad)
            self.refused(1, ["model.safetensors" if words[0] != "t" or "header" in words else "", words], "score", folder, *IDS)
        weights.write_bytes(data)
        for bad, words in ((b"", "empty"), (b"{", "no valid JSON"), (b"[]", "no JSON object"), (b'{"a":1,"a":2}', "duplicate")):
            config.write_bytes(bad)
            self.refused(1, ["config.json", words], "score", folder, *IDS)
        config.unlink()
        self.refused(1, ["config.json"], "score", folder, *IDS)

    def test_shards(self):
        folder = folders.copy("llama-bf16-sharded")
        index = folder / "model.safetensors.index.json"
        good = json.loads(index.read_text())
        name = "model.norm.weight"

        def wrong(words, place):
            index.write_text(json.dumps({**good, "weight_map": {**good["weight_map"], name: place}}))
            self.refused(1, [str(folder), *words], "score", folder, *IDS)
        wrong(["gone.safetensors"], "gone.safetensors")
        wrong([name, "00003-of-00003"], "model-00001-of-00003.safetensors")
        for place in ("../x.safetensors", "/etc/x.safetensors", "..", "a/b.safetensors"):
            wrong([place, "plain file name"], place)
        index.write_text(json.dumps(good))
        (folder / "model-00002-of-00003.safetensors").unlink()
        self.refused(1, ["model-00002-of-00003.safetensors"], "score", folder, *IDS)
