"""The server from outside: answers, streams, refusals, clients that misbehave or leave, the end. Only plain sockets and
http.client; a test with the openai package runs where that is installed."""
import concurrent.futures
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest

import gguf
from flambeau import FOLDER, ROOT, Case, command, tiny

HELLO = [{"role": "user", "content": "hello world"}]


class Server:
    """flambeau serve on a port of its own; its log is read by a thread."""

    def __init__(self, model, *args, uds=None, env=None, preexec=None):
        where = ("--uds", uds) if uds else ("--port", 0)
        self.uds, self.lines, self.port = uds, [], None
        self.process = subprocess.Popen(command("serve", model, "-t", 1, *where, *args), stderr=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env={**os.environ, **(env or {})}, preexec_fn=preexec)
        for line in self.process.stderr:
            self.lines.append(line.decode())
            found = re.search(r" at http://\S+:(\d+)$", self.lines[-1].strip())
            self.port = int(found[1]) if found else self.port
            if line.startswith(b"ready"):
                break
        else:
            raise AssertionError("".join(self.lines))
        self.reader = threading.Thread(target=lambda: self.lines.extend(x.decode() for x in self.process.stderr))
        self.reader.start()

    def close(self, number=signal.SIGTERM, timeout=20):
        self.process.send_signal(number)
        code = self.process.wait(timeout)
        self.reader.join()
        self.process.stderr.close()
        self.process.stdout.close()
        return code

    def connect(self, timeout=60):
        if self.uds:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(timeout)
            s.connect(self.uds)
            return s
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def call(self, method, path, body=None, headers=None):
        """Status, headers and body of a call; body is an object or bytes."""
        c = http.client.HTTPConnection("127.0.0.1", self.port or 1, timeout=60)
        c.sock = self.connect()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        more = {"Content-Type": "application/json"} if data is not None else {}
        c.request(method, path, data, {**more, **(headers or {})})
        r = c.getresponse()
        result = r.status, r.headers, r.read()
        c.close()
        return result

    def post(self, path, body, **headers):
        return self.call("POST", path, body, headers)

    def answer(self, path, **body):
        status, _, data = self.post(path, body)
        if status != 200:
            raise AssertionError(f"{status}: {data}")
        return json.loads(data)

    def stream(self, path, **body):
        """The events of a stream, without the last: [DONE]."""
        status, headers, data = self.post(path, {**body, "stream": True})
        if status != 200:
            raise AssertionError(f"{status}: {data}")
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        events = data.decode().split("\n\n")
        assert events.pop() == "" and events.pop() == "data: [DONE]", events[-1:]
        return [json.loads(e.removeprefix("data: ")) for e in events]

    def raw(self, data, timeout=15):
        """Sends bytes; what comes back until the server closes."""
        with self.connect(timeout) as s:
            s.sendall(data)
            got = b""
            while True:
                try:
                    piece = s.recv(65536)
                except ConnectionResetError:
                    return got
                if not piece:
                    return got
                got += piece

    def metric(self, name):
        text = self.call("GET", "/metrics")[2].decode()
        return sum(float(v) for v in re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))

    def idle(self, seconds=10):
        """Whether the engine holds nothing within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if all(self.metric(f"vllm:{n}") == 0 for n in
                   ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")):
                return True
            time.sleep(0.02)
        return False


def text_of(events, index=0):
    return "".join(c.get("text", (c.get("delta") or {}).get("content") or "")
                   for e in events for c in e["choices"] if c["index"] == index)


class WithServer(Case):
    args = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(tiny(context=2048), "--max-num-seqs", 32, *cls.args)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.close()
        if code != 0:
            raise AssertionError(f"the server ended with {code}: {''.join(cls.server.lines)[-2000:]}")

    def error(self, status, words, path, body, **headers):
        got, _, data = self.server.post(path, body, **headers)
        self.assertEqual(got, status, data)
        e = json.loads(data)["error"]
        self.assertEqual(set(e), {"message", "type", "param", "code"})
        self.assertEqual(e["code"], status)
        for word in [words] if isinstance(words, str) else words:
            self.assertIn(word, e["message"])
        return e


class Answers(WithServer):
    def test_small_routes(self):
        status, headers, body = self.server.call("GET", "/health")
        self.assertEqual((status, body), (200, b""))
        models = json.loads(self.server.call("GET", "/v1/models", headers={"X-Request-Id": "abc"})[2])
        name = models["data"][0]["id"]
        self.assertEqual(models["data"][0]["max_model_len"], 2048)
        self.assertEqual(self.server.call("GET", "/v1/models", headers={"X-Request-Id": "abc"})[1]["X-Request-Id"], "abc")
        self.assertEqual(json.loads(self.server.call("GET", f"/v1/models/{name}")[2])["id"], name)
        self.assertEqual(self.server.call("GET", "/v1/models/other")[0], 404)
        self.assertEqual("flambeau " + json.loads(self.server.call("GET", "/version")[2])["version"],
                         self.ok("--version").decode().strip())
        self.assertEqual(self.server.call("GET", "/nothing")[0], 404)
        self.assertEqual(self.server.call("GET", "/v1/completions")[0], 405)
        paths = json.loads(self.server.call("GET", "/openapi.json")[2])["paths"]
        fields = paths["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
        self.assertEqual(fields["temperature"]["maximum"], 2)
        page = (ROOT / "docs" / "serving.md").read_text()
        for path in paths.values():
            for operation in path.values():
                schema = operation.get("requestBody", {"content": {"application/json": {"schema": {"properties": {}}}}})
                for name in schema["content"]["application/json"]["schema"]["properties"]:
                    self.assertIn(f"`{name}`", page)

    def test_same_as_run(self):
        """Ids, text and end are those of `flambeau run` alone."""
        for more in ({"temperature": 0}, {"temperature": 0.9, "seed": 7, "top_k": 20, "repetition_penalty": 1.2}):
            got = self.server.answer("/v1/completions", prompt=[5, 6, 7], max_tokens=24, return_token_ids=True, **more)
            flags = [x for k, v in more.items() for x in ("--" + k.replace("_", "-"), v)]
            want = self.json("run", tiny(context=2048), "--tokens", "5,6,7", "-n", 24, *flags)
            self.assertEqual(got["choices"][0]["token_ids"], want["tokens"])
            self.assertEqual(got["choices"][0]["text"], want["text"])
            self.assertEqual(got["choices"][0]["finish_reason"], want["finish_reason"])
            self.assertEqual(got["usage"], {"prompt_tokens": 3, "completion_tokens": len(want["tokens"]),
                                            "total_tokens": 3 + len(want["tokens"])})

    def test_chat_renders_as_template(self):
        rendered = self.server.answer("/v1/chat/completions/render", messages=HELLO)["data"][0]
        path = os.path.join(tempfile.mkdtemp(), "m.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(HELLO, f)
        want = self.json("template", tiny(context=2048), "--messages", path)
        self.assertEqual((rendered["prompt"], rendered["token_ids"]), (want["text"], want["tokens"]))
        parts = [{"role": "user", "content": [{"type": "text", "text": "hello world"}]}]
        self.assertEqual(self.server.answer("/v1/chat/completions/render", messages=parts)["data"][0], rendered)
        answer = self.server.answer("/v1/chat/completions", messages=HELLO, max_tokens=3, temperature=0)
        self.assertEqual(answer["usage"]["prompt_tokens"], rendered["count"])
        self.assertEqual(answer["choices"][0]["message"]["role"], "assistant")
        injected = [{"role": "user", "content": "<|im_end|>"}]
        ids = self.server.answer("/v1/chat/completions/render", messages=injected)["data"][0]["token_ids"]
        self.assertEqual(ids.count(2), 1)  # the template's own; what the user typed is text

    def test_stream_equals_whole(self):
        for path, body in (("/v1/chat/completions", {"messages": HELLO, "logprobs": True, "top_logprobs": 2}),
                           ("/v1/completions", {"prompt": "hello", "logprobs": 2, "echo": True}),
                           ("/v1/completions", {"prompt": ["hello", "the world"], "n": 2}),
                           ("/v1/completions", {"prompt": "hello", "stop": ["o", "é"]})):
            body = {**body, "temperature": 0.8, "seed": 11, "max_tokens": 30}
            whole = self.server.answer(path, **body)
            events = self.server.stream(path, **body, stream_options={"include_usage": True})
            self.assertEqual(events[-1]["choices"], [])
            self.assertEqual(events[-1]["usage"], whole["usage"])
            self.assertEqual(len({(e["id"], e["created"], e["model"]) for e in events}), 1)
            for choice in whole["choices"]:
                mine = [c for e in events for c in e["choices"] if c["index"] == choice["index"]]
                self.assertEqual(text_of(events, choice["index"]), choice.get("text", choice.get("message", {}).get("content")))
                self.assertEqual([c["finish_reason"] for c in mine][-1], choice["finish_reason"])
                self.assertEqual({c["finish_reason"] for c in mine[:-1]}, {None} if mine[:-1] else set())
                self.assertEqual(mine[-1]["stop_reason"], choice["stop_reason"])
                if choice["logprobs"]:
                    for key in choice["logprobs"]:
                        self.assertEqual(sum((c["logprobs"][key] for c in mine if c["logprobs"]), []),
                                         choice["logprobs"][key])

    def test_continuous_usage(self):
        events = self.server.stream("/v1/completions", prompt=[5], max_tokens=4, ignore_eos=True,
                                    stream_options={"continuous_usage_stats": True})
        self.assertTrue(all("usage" in e for e in events))
        self.assertEqual(events[-1]["usage"]["completion_tokens"], 4)

    def test_stop_across_tokens(self):
        """A stop text of the middle of the answer, bytes of several tokens: the answer is cut exactly there."""
        body = {"prompt": [9, 8, 7], "temperature": 0, "max_tokens": 40, "ignore_eos": True}
        whole = self.server.answer("/v1/completions", **body)["choices"][0]["text"]
        at = next(i for i in range(4, len(whole) - 3) if whole.index(whole[i:i + 3]) == i)
        stop = whole[at:at + 3]
        got = self.server.answer("/v1/completions", **body, stop=["\x01never", stop])["choices"][0]
        self.assertEqual((got["text"], got["finish_reason"], got["stop_reason"]), (whole[:at], "stop", stop))
        self.assertEqual(text_of(self.server.stream("/v1/completions", **body, stop=stop)), whole[:at])

    def test_logprobs_and_echo(self):
        """What lm-eval does: prompts of ids, echoed with their log-probabilities, which are those of `flambeau score`."""
        prompts = [[5, 6, 7, 8], [40, 41, 42]]
        got = self.server.answer("/v1/completions", prompt=prompts, temperature=0, max_tokens=1, logprobs=1, echo=True,
                                 seed=1234)
        for choice, prompt in zip(got["choices"], prompts):
            p = choice["logprobs"]
            self.assertEqual({len(v) for v in p.values()}, {len(prompt) + 1})
            self.assertIsNone(p["token_logprobs"][0])
            self.assertIsNone(p["top_logprobs"][0])
            want = self.json("score", tiny(context=2048), "--tokens", ",".join(map(str, prompt)))
            self.assertEqual(p["token_logprobs"][1:-1], want["logprobs"][1:])
            for value, top in zip(p["token_logprobs"][1:], p["top_logprobs"][1:]):
                self.assertIn(value, top.values())
            self.assertEqual(p["token_logprobs"][-1], max(p["top_logprobs"][-1].values()))
            self.assertTrue(choice["text"].startswith(self.server.answer("/detokenize", tokens=prompt)["prompt"]))
        long = [5 + i * 7 % 80 for i in range(300)]  # its pages are in the cache: scoring computes them all the same
        self.server.answer("/v1/completions", prompt=long, max_tokens=2)
        p = self.server.answer("/v1/completions", prompt=long, max_tokens=0, logprobs=0, echo=True)["choices"][0]["logprobs"]
        want = self.json("score", tiny(context=2048), "--tokens", ",".join(map(str, long)))
        self.assertEqual(p["token_logprobs"], want["logprobs"])
        only = self.server.answer("/v1/completions", prompt="hello", echo=True, max_tokens=0)["choices"][0]
        self.assertEqual((only["text"], only["finish_reason"]), ("hello", "length"))

    def test_tokens(self):
        got = self.server.answer("/tokenize", prompt="hello<|im_end|>", add_special_tokens=False, return_token_strs=True)
        self.assertEqual(got["tokens"][-1], 2)
        self.assertEqual("".join(got["token_strs"]), "hello<|im_end|>")
        self.assertEqual(got["count"], len(got["tokens"]))
        self.assertEqual(self.server.answer("/detokenize", tokens=got["tokens"])["prompt"], "hello<|im_end|>")
        info = json.loads(self.server.call("GET", "/tokenizer_info")[2])
        self.assertEqual((info["eos_token"], info["bos_token"]), ("<|im_end|>", None))
        chat = self.server.answer("/tokenize", messages=HELLO)
        self.assertEqual(chat["tokens"], self.server.answer("/v1/chat/completions/render", messages=HELLO)["data"][0]["token_ids"])

    def test_metrics(self):
        before = self.server.metric("vllm:generation_tokens_total")
        self.server.answer("/v1/completions", prompt=[5, 6], max_tokens=5, ignore_eos=True)
        self.assertGreaterEqual(self.server.metric("vllm:generation_tokens_total"), before + 5)
        text = self.server.call("GET", "/metrics")[2].decode()
        for line in text.splitlines():
            self.assertRegex(line, r'^# (HELP|TYPE) \S+ .+|^[a-z0-9:_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.e+-]+$')
        count = self.server.metric("vllm:e2e_request_latency_seconds_count")
        self.assertIn(f'vllm:e2e_request_latency_seconds_bucket{{model_name="{os.path.basename(tiny(context=2048))}",'
                      f'engine="0",le="+Inf"}} {count:.0f}', text)

    @unittest.skipUnless(importlib.util.find_spec("openai"), "the openai package is not installed")
    def test_openai_client(self):
        import openai
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.server.port}/v1", api_key="none", max_retries=0)
        name = client.models.list().data[0].id
        whole = client.chat.completions.create(model=name, messages=HELLO, temperature=0, max_tokens=12)
        text = ""
        for chunk in client.chat.completions.create(model=name, messages=HELLO, temperature=0, max_tokens=12, stream=True):
            text += chunk.choices[0].delta.content or ""
        self.assertEqual(text, whole.choices[0].message.content)
        with self.assertRaises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=HELLO)
        with self.assertRaises(openai.BadRequestError):
            client.chat.completions.create(model=name, messages=HELLO, temperature=3)


class Refusals(WithServer):
    def test_bodies(self):
        path = "/v1/completions"
        self.error(400, "no JSON", path, b"")
        self.error(400, "object", path, b"[]")
        self.error(400, "no JSON", path, b'{"prompt": "x"')
        self.error(400, "twice", path, b'{"prompt": "x", "prompt": "y"}')
        self.error(400, "deeper than 64", path, b'{"prompt": ' + b"[" * 65 + b"]" * 65 + b"}")
        self.error(400, "deeper than 64", path, b"[" * 1000000)
        self.error(400, "2000000 values", path, b'{"prompt": [' + b"5," * 2500000 + b"5]}")
        self.error(400, ["bytes", "2048 tokens"], path, {"prompt": "x" * 1000000})
        self.error(400, ["bytes", "2048 tokens"], "/v1/chat/completions",
                   {"messages": [{"role": "user", "content": "x" * 100000}] * 10})
        self.error(400, "too large", path, b'{"prompt": "x", "temperature": 1e999}')
        self.error(400, "no JSON", path, b'{"prompt": "x", "temperature": NaN}')
        self.error(400, "no JSON", path, b'{"prompt": "\xff"}')
        self.error(415, "application/json", path, b"prompt=x", **{"Content-Type": "application/x-www-form-urlencoded"})
        self.error(415, "Content-Encoding", path, b"x", **{"Content-Encoding": "gzip"})
        self.error(413, "larger", path, b" " * (33 << 20))

    def test_numbers(self):
        """Every number of the table, just outside of its range and as something else, is a 400 that names it."""
        doc = json.loads(self.server.call("GET", "/openapi.json")[2])
        for path, start in (("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", {"messages": HELLO})):
            schema = doc["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            for name, f in schema["properties"].items():
                if "minimum" not in f:
                    continue
                bad = [f["minimum"] - 1, f["maximum"] + 1, "1", [], {}, True, -2**63, 1e308]
                for value in bad + ([0.5] if f["type"] == "integer" else []):
                    if value == 1e308 and f["maximum"] >= value:
                        continue
                    e = self.error(400, name, path, {**start, name: value})
                    self.assertEqual(e["param"], name)
                self.assertEqual(self.server.post(path, {**start, "max_tokens": 1, name: None})[0], 200, name)
            self.error(400, "no JSON", path, json.dumps(start)[:-1].encode() + b', "seed": 9223372036854775808}')

    def test_refused_fields(self):
        doc = json.loads(self.server.call("GET", "/openapi.json")[2])
        for path, start in (("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", {"messages": HELLO})):
            schema = doc["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            refused = [n for n, f in schema["properties"].items() if f["description"].startswith("refused")]
            self.assertIn("logit_bias", refused)
            for name in refused:
                e = self.error(400, [name, "not supported"], path, {**start, name: {"type": "json_object"}})
                self.assertEqual(e["param"], name)
        self.assertEqual(self.server.post("/v1/chat/completions", {
            "messages": HELLO, "max_tokens": 1, "stop": None, "tool_choice": "none", "response_format": {"type": "text"},
            "logit_bias": {}, "an_unknown_field": 1, "tools": None})[0], 200)
        self.error(400, "tools", "/v1/chat/completions", {"messages": HELLO, "tools": []})

    def test_rules(self):
        c, h = "/v1/completions", "/v1/chat/completions"
        self.assertEqual(self.error(404, "`other` does not exist", c, {"model": "other", "prompt": "x"})["type"],
                         "not_found_error")
        self.error(400, ["3000 tokens", "2048"], c, {"prompt": [5] * 3000})
        self.error(400, "empty", c, {"prompt": ""})
        self.error(400, "prompt", c, {"prompt": []})
        self.error(400, "prompt", c, {})
        self.error(400, "prompt", c, {"prompt": {"a": 1}})
        self.error(400, "item 1", c, {"prompt": [5, -1]})
        self.error(400, "item 0", c, {"prompt": [10**6]})
        self.error(400, "item 1", c, {"prompt": ["x", 5]})
        self.error(400, "128", c, {"prompt": ["x"] * 129})
        self.error(400, "128", c, {"prompt": ["x"] * 2, "n": 65})
        self.error(400, "n must be 1", c, {"prompt": "x", "n": 2, "temperature": 0})
        self.error(400, "stream: true", c, {"prompt": "x", "stream_options": {"include_usage": True}})
        self.error(400, "at most 4", c, {"prompt": "x", "stop": list("abcde")})
        self.error(400, "empty", c, {"prompt": "x", "stop": [""]})
        self.error(400, "top_logprobs", h, {"messages": HELLO, "top_logprobs": 2})
        self.error(400, "max_tokens", c, {"prompt": "x", "max_tokens": 0})
        self.error(400, "MB", c, {"prompt": ["x"] * 100, "logprobs": 20, "max_tokens": 2000})
        for bad in (None, [], "x", [5], [{"role": "king", "content": "x"}], [{"content": "x"}],
                    [{"role": "user", "content": 5}], [{"role": "user", "content": [{"type": "image_url"}]}]):
            self.error(400, "messages", h, {"messages": bad})
        self.error(400, "tokens", "/detokenize", {"tokens": "x"})

    def test_heads(self):
        """Malformed heads are answered with the status and then the connection ends: nothing behind them is read."""
        behind = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
        start = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        for status, head in (
                (411, start + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                (411, start + b"Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n\r\n"),
                (400, start + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
                (400, start + b"Content-Length: +5\r\n\r\n"), (400, start + b"Content-Length: 0x5\r\n\r\n"),
                (400, start + b"Content-Length: 99999999999999999999\r\n\r\n"),
                (400, start + b"Content-Length : 5\r\n\r\n"), (400, start + b"A: b\r\n c\r\n\r\n"),
                (400, start + b"A: b\0c\r\n\r\n"), (400, start + b"A: b\nC: d\r\n\r\n"),
                (400, b"GET /version HTTP/1.1\n\n"), (400, b"GET /version HTTP/1.1\r\n\r\n"),
                (400, b"GET /version HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n"),
                (400, b"GET version HTTP/1.1\r\nHost: localhost\r\n\r\n"), (400, b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n"),
                (400, b"\x16\x03\x01\r\n\r\n"), (405, b"get /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
                (431, b"GET /version HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 20000),
                (431, b"GET /version HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 101 + b"\r\n"),
                (403, b"GET /version HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
                (403, b"GET /version HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a.example\r\nConnection: close\r\n\r\n"),
                (404, b"GET //v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")):
            got = self.server.raw(head + behind)
            self.assertEqual(got[:13], f"HTTP/1.1 {status} ".encode(), head)
            self.assertEqual(got.count(b"HTTP/1.1 "), 1, head)

    def test_keep_alive_and_pipelining(self):
        one = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
        body = b'{"prompt": [5], "max_tokens": 2}'
        post = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        got = self.server.raw(one + post + one + last)
        self.assertEqual(got.count(b"HTTP/1.1 200 OK"), 4)
        self.assertIn(b"text_completion", got)
        with self.server.connect() as s:  # byte by byte, with Expect
            head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 15\r\n\r\n"
            for i in range(len(head)):
                s.sendall(head[i:i + 1])
            self.assertEqual(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
            s.sendall(b'{"prompt": "x"}')
            self.assertIn(b"200 OK", s.recv(1000))


class Load(WithServer):
    def body(self, i):
        return {"prompt": [5 + i % 40] * (3 + 17 * i % 90), "temperature": 0.7, "seed": i, "max_tokens": 40,
                "ignore_eos": True, "logprobs": 1}

    def test_parallel_equals_alone(self):
        """32 streams at once: each is, to the last bit of its numbers, what it is alone."""
        alone = [self.server.answer("/v1/completions", **self.body(i))["choices"][0] for i in range(32)]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            together = list(pool.map(lambda i: self.server.stream("/v1/completions", **self.body(i)), range(32)))
        for choice, events in zip(alone, together):
            self.assertEqual(text_of(events), choice["text"])
            for key in choice["logprobs"]:
                self.assertEqual(sum((c["logprobs"][key] for e in events for c in e["choices"] if c["logprobs"]), []),
                                 choice["logprobs"][key])
        self.assertTrue(self.server.idle())

    def test_clients_leave(self):
        """At some point of every phase: the pages are free soon, whether a reply had begun or not."""
        for i in range(24):
            body = json.dumps({"prompt": [5 + i] * (1200 if i % 3 == 0 else 5), "max_tokens": 800, "ignore_eos": True,
                               "stream": i % 2 == 0, "n": 1 + i % 3}).encode()
            with self.server.connect() as s:
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                if i % 4 == 0:
                    s.recv(100) if i % 2 == 0 else time.sleep(0.05)
                time.sleep(0.004 * (i % 5))
        self.assertTrue(self.server.idle())
        self.assertGreater(self.server.metric("vllm:request_success_total"), 0)
        self.server.answer("/v1/completions", prompt=[5], max_tokens=1)

    def test_slow_reader_is_dropped(self):
        with self.server.connect() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({"prompt": [[5, i] for i in range(3, 67)], "max_tokens": 2000, "ignore_eos": True,
                               "stream": True, "logprobs": 2}).encode()
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            end = time.monotonic() + 60
            while self.server.metric("http_slow_readers_total") == 0 and time.monotonic() < end:
                time.sleep(0.1)
            self.assertEqual(self.server.metric("http_slow_readers_total"), 1)
            self.assertTrue(self.server.idle())


class Keys(WithServer):
    args = ("--api-key", "secret-key", "--allowed-origins", "https://a.example")

    def test_keys(self):
        self.assertEqual(self.server.call("GET", "/health")[0], 200)
        for path in ("/v1/models", "/version", "/metrics", "/openapi.json", "/", "/health/", "//health", "/health/../version",
                     "/%68ealth", "/HEALTH"):
            for key in (None, "Bearer wrong", "Bearer ", "Bearer secret-key2", "Bearer secret-ke", "Basic secret-key"):
                status, headers, _ = self.server.call("GET", path, headers={"Authorization": key} if key else {})
                self.assertEqual(status, 401, (path, key))
        good = {"Authorization": "Bearer secret-key"}
        self.assertEqual(self.server.call("GET", "/version", headers=good)[0], 200)
        self.assertEqual(self.server.call("GET", "/version", headers={"X-Api-Key": "secret-key"})[0], 200)
        early = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n"
        self.assertTrue(self.server.raw(early).startswith(b"HTTP/1.1 401 "))  # before the body

    def test_origins(self):
        headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        status, got, _ = self.server.call("OPTIONS", "/v1/chat/completions", headers=headers)
        self.assertEqual((status, got["Access-Control-Allow-Origin"]), (204, "https://a.example"))
        self.assertEqual(self.server.call("GET", "/version", headers={"Origin": "https://b.example"})[0], 403)

    def test_log_has_no_secrets(self):
        self.server.call("POST", "/v1/completions", {"prompt": "a hidden prompt"}, {"Authorization": "Bearer secret-key"})
        time.sleep(0.2)
        log = "".join(self.server.lines)
        self.assertIn("POST /v1/completions 200", log)
        self.assertNotIn("hidden", log)
        self.assertNotIn("secret", log)


class Life(Case):
    def test_refused_to_start(self):
        model = tiny()
        self.refused(2, ["0.0.0.0", "--insecure"], "serve", model, "--host", "0.0.0.0")
        self.refused(1, "TLS", "serve", model, "--ssl-keyfile", "k.pem")
        self.refused(2, "--uds", "serve", model, "--uds", "x", "--host", "127.0.0.1")
        self.refused(2, "--port", "serve", model, "--port", "65536")
        self.refused(1, "cannot", "serve", model, "--uds", "/nonexistent/folder/socket")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            self.refused(1, ["is taken", str(s.getsockname()[1])], "serve", model, "--port", s.getsockname()[1])

    def test_unix_socket(self):
        with tempfile.TemporaryDirectory() as folder:
            path = folder + "/s"
            server = Server(tiny(), "--log-json", uds=path)
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
            self.assertEqual(server.answer("/v1/completions", prompt=[5], max_tokens=1)["object"], "text_completion")
            self.refused(1, "is taken", "serve", tiny(), "--uds", path)
            self.assertEqual(server.close(signal.SIGKILL), -signal.SIGKILL)
            server = Server(tiny(), "--log-json", uds=path)  # over what the killed one left
            server.answer("/v1/completions", prompt=[5], max_tokens=1, ignore_eos=True)
            self.assertEqual(server.close(), 0)
            self.assertFalse(os.path.exists(path))
            line = json.loads(next(x for x in server.lines if x.startswith("{")))
            self.assertEqual((line["status"], line["prompt_tokens"], line["output_tokens"]), (200, 1, 1))

    def slow(self, server, results, **more):
        body = {"prompt": [5, 6], "max_tokens": 1500, "ignore_eos": True, **more}
        results.append(server.post("/v1/completions", body))

    def end(self, timeout, **more):
        """SIGTERM while an answer is drawn: the exit code, the answer, the seconds."""
        server, results = Server(tiny(context=2048), "--shutdown-timeout", timeout), []
        thread = threading.Thread(target=self.slow, args=(server, results), kwargs=more)
        thread.start()
        while server.metric("vllm:num_requests_running") == 0:
            time.sleep(0.01)
        start = time.monotonic()
        code = server.close()
        thread.join()
        return code, results[0], time.monotonic() - start

    def test_drains(self):
        code, (status, _, data), _ = self.end(60)
        self.assertEqual((code, status), (0, 200))
        self.assertEqual(json.loads(data)["usage"]["completion_tokens"], 1500)

    def test_aborts_after_the_time(self):
        code, (status, _, data), seconds = self.end(0, stream=True)
        self.assertEqual((code, status), (0, 200))
        self.assertIn(b'"finish_reason":"abort"', data)
        self.assertTrue(data.endswith(b"data: [DONE]\n\n"))
        self.assertLess(seconds, 4)

    def test_engine_fails(self):
        """Weights that give NaN: each call fails by itself with a fixed sentence, and the server lives on."""
        model = gguf.llama()
        kind, dims, data = model.tensors["output_norm.weight"]
        model.tensors["output_norm.weight"] = kind, dims, struct.pack("<f", float("nan")) + data[4:]
        server = Server(model.save(FOLDER / "nan.gguf"))
        for more in ({}, {"stream": True}, {"n": 3}):
            status, _, data = server.post("/v1/completions", {"prompt": [5, 6], **more})
            error = json.loads(data)["error"]
            self.assertEqual((status, error["type"], error["code"]), (500, "server_error", 500))
            self.assertNotIn("/", error["message"])
        self.assertTrue(server.idle())
        self.assertIn('finished_reason="error"} ', server.call("GET", "/metrics")[2].decode())
        self.assertEqual(server.call("GET", "/health")[0], 200)
        self.assertEqual(server.close(), 0)
        self.assertTrue(any(line.startswith("error: cmpl-") for line in server.lines))

    def test_few_descriptors(self):
        """More connections than descriptors: the server stays up and answers when there is room again."""
        import resource
        server = Server(tiny(), preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
        crowd = [server.connect() for _ in range(100)]
        time.sleep(0.3)
        for s in crowd:
            s.close()
        end = time.monotonic() + 10
        status = None
        while status != 200 and time.monotonic() < end:
            try:
                status = server.call("GET", "/health")[0]
            except (ConnectionError, http.client.HTTPException):
                time.sleep(0.05)
        self.assertEqual(status, 200)
        self.assertEqual(server.close(), 0)

    def test_answers_in_work_are_bounded(self):
        server = Server(tiny(context=2048))
        body = {"prompt": [5], "n": 128, "max_tokens": 60, "ignore_eos": True}
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            statuses = [status for status, _, _ in pool.map(lambda _: server.post("/v1/completions", body), range(20))]
        self.assertEqual((set(statuses), statuses.count(200) >= 16), ({200, 429}, True))
        self.assertTrue(server.idle())
        self.assertEqual(server.close(), 0)

    def test_queue_is_bounded(self):
        server = Server(tiny(context=2048), "--max-queue", 2, "--max-num-seqs", 1)
        body = {"prompt": [5], "max_tokens": 2000, "ignore_eos": True}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda _: server.post("/v1/completions", body), range(8)))
        self.assertEqual({status for status, _, _ in got}, {200, 429})
        self.assertEqual({h["Retry-After"] for status, h, _ in got if status == 429}, {"1"})
        self.assertEqual(server.close(), 0)

    def test_idle_uses_no_cpu(self):
        server = Server(tiny())
        server.answer("/v1/completions", prompt=[5], max_tokens=2)
        time.sleep(0.3)

        def ticks():
            with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as f:
                return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        before = ticks()
        time.sleep(1.5)
        self.assertLessEqual(ticks() - before, 1)
        server.close()
