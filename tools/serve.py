"""Serve the built book on http://localhost:8000 and open it in a browser, if there is one.

python tools/serve.py
"""

import threading
import webbrowser
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BOOK = Path(__file__).parent.parent / "_build" / "html"


def main() -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(BOOK))
    with ThreadingHTTPServer(("localhost", 8000), handler) as server:  # it answers from here on
        print("the book is at http://localhost:8000 until you press Ctrl-C")
        threading.Thread(target=webbrowser.open, args=["http://localhost:8000"], daemon=True).start()
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
