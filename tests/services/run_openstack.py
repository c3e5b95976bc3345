"""Keystone and, with it, Glance on 127.0.0.1, at ports that the system picks and this prints, one a line.

The first argument is an empty directory for all they keep; the second is the password of Keystone's user `admin`. Both
end with the standard input of this program.
"""

import os
import pathlib
import socket
import subprocess
import sys
import threading

from gunicorn.app.base import BaseApplication

PLACE, PASSWORD = pathlib.Path(sys.argv[1]), sys.argv[2]
BIN = pathlib.Path(sys.executable).parent

KEYSTONE = f"""
[DEFAULT]
log_file = {PLACE}/keystone.log
[database]
connection = sqlite:///{PLACE}/keystone.db
[fernet_tokens]
key_repository = {PLACE}/fernet
[credential]
key_repository = {PLACE}/credential
[oslo_policy]
enforce_scope = false
"""

GLANCE = f"""
[DEFAULT]
log_file = {PLACE}/glance.log
enabled_backends = fs:file
[database]
connection = sqlite:///{PLACE}/glance.db
[glance_store]
default_backend = fs
[fs]
filesystem_store_datadir = {PLACE}/images
[os_glance_staging_store]
filesystem_store_datadir = {PLACE}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {PLACE}/tasks
[oslo_policy]
enforce_scope = false
enforce_new_defaults = false
[paste_deploy]
flavor = keystone
config_file = {BIN.parent}/etc/glance/glance-api-paste.ini
[keystone_authtoken]
auth_type = password
auth_url = %(url)s
www_authenticate_uri = %(url)s
username = admin
password = {PASSWORD}
project_name = admin
user_domain_id = default
project_domain_id = default
"""


class Service(BaseApplication):
    """One worker that serves what `load` imports, at an open socket."""

    def __init__(self, listener, module):
        self.listener, self.module = listener, module
        super().__init__()

    def load_config(self):
        self.cfg.set("bind", f"fd://{self.listener.fileno()}")
        self.cfg.set("threads", 4)
        self.cfg.set("control_socket_disable", True)
        self.cfg.set("errorlog", str(PLACE / "gunicorn.log"))

    def load(self):
        # They read the words of the command line as their own.
        sys.argv = sys.argv[:1]
        return __import__(self.module, fromlist=["application"]).application


def prepare(tool, config, *steps):
    for step in steps:
        subprocess.run([BIN / tool, "--config-file", config, *step], check=True, capture_output=True)


def serve(listener, module):
    """Serves in a process of its own until this one ends."""
    if os.fork() == 0:
        Service(listener, module).run()


def open_socket():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    return listener, listener.getsockname()[1]


def main():
    keystone, keystone_port = open_socket()
    glance, glance_port = open_socket()
    os.setpgid(0, 0)
    threading.Thread(target=end_with_input, daemon=True).start()

    url = f"http://127.0.0.1:{keystone_port}/v3"
    user = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    for folder in ("fernet", "credential", "images", "staging", "tasks"):
        (PLACE / folder).mkdir(mode=0o700)
    (PLACE / "keystone.conf").write_text(KEYSTONE)
    (PLACE / "glance-api.conf").write_text(GLANCE % {"url": url})
    places = [word for kind in ("public", "internal", "admin") for word in (f"--bootstrap-{kind}-url", url)]
    prepare(
        "keystone-manage", PLACE / "keystone.conf", ["db_sync"], ["fernet_setup", *user], ["credential_setup", *user],
        ["bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", "RegionOne", *places],
    )
    prepare("glance-manage", PLACE / "glance-api.conf", ["db_sync"])
    os.environ["OS_KEYSTONE_CONFIG_FILES"] = str(PLACE / "keystone.conf")
    os.environ["OS_GLANCE_CONFIG_DIR"] = str(PLACE)
    serve(keystone, "keystone.wsgi.api")
    serve(glance, "glance.wsgi.api")
    print(keystone_port, glance_port, sep="\n", flush=True)
    threading.Event().wait()


def end_with_input():
    """Ends all processes of this group, of which this one is the first."""
    sys.stdin.read()
    os.killpg(0, 9)


main()
