"""template: chat templates of models and of lone files."""
import json

from flambeau import FOLDER, PATIENCE, Case, tiny

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello\n\"quoted\" é 🙂"}]
CHAT = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in MESSAGES)


def write(name, data):
    path = FOLDER / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


class Template(Case):
    def test_a_model(self):
        for data in (MESSAGES, {"messages": MESSAGES}):
            path = write("m.json", data)
            self.assertEqual(self.ok("template", tiny(), "--messages", path).decode(), CHAT + "<|im_start|>assistant\n")
            self.assertEqual(self.ok("template", tiny(), "--messages", path, "--no-generation-prompt").decode(), CHAT)

    def test_ids(self):
        out = self.json("template", tiny(), "--messages", write("m.json", MESSAGES))
        self.assertEqual(out["text"], CHAT + "<|im_start|>assistant\n")
        self.assertEqual(self.json("tokenize", tiny(), out["text"], "--parse-special", "--no-bos")["ids"], out["tokens"])
        path = write("m.json", [{"role": "user", "content": "<|im_end|>"}])
        self.assertEqual(self.json("template", tiny(), "--messages", path)["tokens"].count(2), 1)

    def test_a_lone_file(self):
        file = write("t.jinja", "{{ bos_token }}{{ x + 1 }} {{ ratio }} {{ tools | length if tools else 'none' }}")
        kwargs = json.dumps({"bos_token": "<s>", "x": 41, "ratio": 0.1})
        self.assertEqual(self.ok("template", file, "--kwargs", kwargs).decode(), "<s>42 0.1 none")
        tools = write("tools.json", [{"name": "a"}, {"name": "b"}])
        self.assertEqual(self.json("template", file, "--kwargs", kwargs, "--tools", tools), {"text": "<s>42 0.1 2"})

    def test_the_clock(self):
        file = write("now.jinja", "{{ strftime_now('%d %b %Y') }}")
        self.assertEqual(self.ok("template", file, "--now", "2026-01-31T12:00:00").decode(), "31 Jan 2026")

    def test_refused(self):
        messages = write("m.json", MESSAGES)
        self.refused(1, "template", "template", tiny("gemma3"), "--messages", messages)
        self.refused(1, ["no JSON", "line 1"], "template", tiny(), "--messages", write("bad.json", "[{]"))
        self.refused(1, "list or object", "template", tiny(), "--messages", write("bad.json", "3"))
        self.refused(1, "--kwargs", "template", tiny(), "--messages", messages, "--kwargs", "[1]")
        self.refused(1, "nowhere", "template", tiny(), "--messages", "/nowhere/m.json")
        self.refused(1, "line 2", "template", write("t.jinja", "a\n{% if %}"), "--kwargs", "{}")

    def test_templates_that_raise_or_never_end(self):
        self.refused(1, "no such role", "template", write("t.jinja", "{{ raise_exception('no such role') }}"))
        for source in ("{% for i in range(1000000000000) %}x{% endfor %}",
                       "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}{% endfor %}{% endfor %}{% endfor %}",
                       "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"):
            with self.subTest(source=source):
                self.refused(1, "", "template", write("t.jinja", source), timeout=PATIENCE)
        raising = tiny(template="{{ raise_exception('not today') }}")
        self.refused(1, "not today", "run", raising, "hello")
        endless = tiny(template="{% for i in range(1000000000) %}{% for j in range(1000000000) %}{% endfor %}{% endfor %}")
        self.refused(1, "", "run", endless, "hello", timeout=PATIENCE)

    def test_a_template_given_by_the_user(self):
        path, messages = FOLDER / "own.jinja", FOLDER / "own.json"
        path.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}<|im_start|>")
        messages.write_text(json.dumps([{"role": "user", "content": "hi <|im_start|>"}]))
        out = self.json("template", tiny(), "--messages", messages, "--chat-template", path)
        self.assertEqual(out["text"], "[user]hi <|im_start|><|im_start|>")
        self.assertEqual(out["tokens"].count(1), 1)   # the template's, not the user's
        for model in (tiny(), tiny("gemma3")):        # one with, one without a template of its own
            greedy = ("--temperature", "0", "-n", "4", "--chat-template", path)
            ids = self.json("template", model, "--messages", messages, "--chat-template", path)["tokens"]
            self.assertEqual(self.json("run", model, "hi <|im_start|>", *greedy)["prompt_tokens"], ids)
        path.write_text("a\n{% if %}")
        self.refused(1, ["chat template", "line 2"], "run", tiny(), "hi", "--chat-template", path)
        self.refused(1, "/nowhere", "run", tiny(), "hi", "--chat-template", "/nowhere")
        self.refused(2, "--chat-template", "run", tiny(), "hi", "--raw", "--chat-template", path)
        self.refused(2, "needs a model", "template", path, "--chat-template", path)
