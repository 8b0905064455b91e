"""A hub of models on 127.0.0.1 that can be told to misbehave: what pulling is tested against."""
import hashlib
import http.server
import json
import socket
import struct
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self):
        """Ends the connection with a reset, whatever was promised."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        with hub.lock:
            hub.requests.append((self.path, dict(self.headers)))
            count = sum(1 for p, _ in hub.requests if p == self.path)
        try:
            if hub.fault and hub.fault(self, path, count):
                return
            self.serve(hub, path)
        except OSError:
            self.close_connection = True

    def serve(self, hub, path):
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer(401, b"{}")
        if path.startswith(f"/api/models/{hub.repo}/revision/"):
            if path.rsplit("/", 1)[1] not in ("main", "v1", "1", hub.commit):
                return self.answer(404)
            return self.answer(200, json.dumps({"id": hub.repo, "sha": hub.commit}).encode())
        if path == f"/api/models/{hub.repo}/tree/{hub.commit}":
            return self.tree(hub)
        prefix = f"/{hub.repo}/resolve/{hub.commit}/"
        name = path[len(prefix):] if path.startswith(prefix) else path[len("/plain/"):] if path.startswith("/plain/") else None
        if name not in hub.files:
            return self.answer(404, b"Entry not found")
        return self.send_file(hub.files[name])

    def tree(self, hub):
        """Two entries to a page."""
        entries = hub.entries or [hub.entry(n) for n in hub.files]
        at = int(urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("cursor", ["0"])[0])
        more = {}
        if at + 2 < len(entries):
            more = {"Link": f'<{hub.url}/api/models/{hub.repo}/tree/{hub.commit}?recursive=true&cursor={at + 2}>; rel="next"'}
        self.answer(200, json.dumps(entries[at:at + 2]).encode(), **more)

    def range(self, data):
        value = self.headers.get("Range")
        if not value:
            return None
        first, last = value[len("bytes="):].split("-")
        return int(first), min(int(last), len(data) - 1)

    def send_file(self, data):
        span = self.range(data)
        if span is None:
            return self.answer(200, data, ETag='"x"')
        first, last = span
        return self.answer(206, data[first:last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}", ETag='"x"')


class Hub(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, files, repo="org/name"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.repo, self.commit = files, repo, COMMIT
        self.small = {"config.json", "README.md", "tokenizer.json"}  # kept by git itself
        self.entries = self.token = self.fault = None
        self.requests, self.lock = [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass

    def entry(self, name):
        data = self.files[name]
        entry = {"type": "file", "path": name, "size": len(data), "oid": git_oid(data)}
        if name not in self.small:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def asked(self, word):
        """The requests whose path has word."""
        with self.lock:
            return [r for r in self.requests if word in r[0]]

    def close(self):
        self.shutdown()
        self.server_close()
