"""Running a gateway: one process or several, reload, TLS, logs. Nothing here sees a request's content.

merging.py      metrics of several processes as one exposition; pure
messages.py     what a parent and its workers tell each other, and the channel they do it over
supervisor.py   the parent: owns the listening socket, keeps workers running, drains them
worker.py       one serving process, alone or under a supervisor
reload.py       when a changed configuration is read, and what becomes of a bad one
tls.py          certificates that can be renewed while connections are open
access_log.py   where the line about each request goes
browsers.py     CORS
"""
