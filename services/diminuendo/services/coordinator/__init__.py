"""The coordinator: leases jobs from the conductor and drives their searches on one Ray cluster."""

import os

# Ray starts its processes by fork with Python code in the child. gRPC's handlers of forks, which are on by default and
# read this when grpc is first imported, now and then left such a child hanging or with a wrong file closed (4 or 5 of
# 7,000, with calls under way), and ray.init waited 30 s for it in vain. Nothing here uses gRPC on in a forked child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
