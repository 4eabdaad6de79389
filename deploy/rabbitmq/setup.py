#!/usr/bin/env python3
"""Configures a broker for the workers: users, permissions, exchanges, queues and bindings.

    RABBITMQ_API=http://broker:15672 RABBITMQ_ADMIN_USER=... RABBITMQ_ADMIN_PASSWORD=... \\
    RABBITMQ_WORKER_PASSWORD=... RABBITMQ_SUBMITTER_PASSWORD=... RABBITMQ_SCALER_PASSWORD=... setup.py [definitions.json]

A second run changes nothing but changed passwords: rotate passwords that way. The script uses the management API, because a
managed broker has no rabbitmqctl, and Python without packages, because every Python image can run it.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# Tags: `management` lets KEDA read the length of queues, and only in a vhost where the user has a permission.
USERS = {"flamingo-worker": "", "flamingo-submitter": "", "flamingo-scaler": "management"}


def variable(name):
    value = os.environ.get(name, "")
    if not value:
        sys.exit(f"setup.py: {name} is not set")
    return value


def call(method, path, body):
    token = f"{variable('RABBITMQ_ADMIN_USER')}:{variable('RABBITMQ_ADMIN_PASSWORD')}"
    request = urllib.request.Request(
        variable("RABBITMQ_API").rstrip("/") + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "authorization": "Basic " + base64.b64encode(token.encode()).decode(),
            "content-type": "application/json",
        },
    )
    try:
        # Ignore a proxy of the environment: the broker is on the local network.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=30).read()
    except urllib.error.HTTPError as error:
        # The broker's error names the queue with different arguments.
        sys.exit(f"setup.py: {method} {path}: {error.code} {error.read().decode(errors='replace')}")


def wait():
    """Waits for the API, which starts some seconds after the broker."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call("GET", "/api/overview", None)
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"setup.py: the management API does not answer: {error}")
            time.sleep(1)


def main():
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "definitions.json")
    with open(sys.argv[1] if len(sys.argv) > 1 else default, encoding="utf-8") as file:
        definitions = json.load(file)
    wait()
    # Before the definitions: a permission for a user that does not exist is refused.
    for user, tags in USERS.items():
        part = user.removeprefix("flamingo-").upper()
        password = variable(f"RABBITMQ_{part}_PASSWORD")
        # Passwords become part of URLs, and KEDA does not decode escapes in them.
        if not (password.isascii() and password.isalnum()):
            sys.exit(f"setup.py: RABBITMQ_{part}_PASSWORD may contain letters and digits only")
        call("PUT", f"/api/users/{urllib.parse.quote(user)}", {"password": password, "tags": tags})
    call("POST", "/api/definitions", definitions)
    print(f"{len(USERS)} users, {len(definitions['queues'])} queues, {len(definitions['exchanges'])} exchanges")


if __name__ == "__main__":
    main()
