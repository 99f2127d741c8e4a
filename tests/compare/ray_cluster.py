"""Two machines of a Ray cluster on this one, with a core each: prints the address, and takes the second away at a line of input. It ends with its input."""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    common = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=common)
    second = cluster.add_node(**common)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(second, allow_graceful=False)
            print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
