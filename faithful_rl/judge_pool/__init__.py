"""The pool of judges: named, detached Ray actors that any job of a Ray cluster can ask. The only home of Ray for judges.

`pool` starts, lists and stops; `client` asks; `replica` is the actor; `settings`, `queue` and `choice` are plain Python. Nothing here
imports verl or torch. `server_group` and `server_actor` put the vLLM servers of an evaluation on the same cluster.
"""

NAMESPACE = "faithful-judges"
JUDGES = ("consistency", "grounding")
