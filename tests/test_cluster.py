"""cluster.yaml. Oracle: Ray's own validator; there is no dry run of ``ray up``."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML


@pytest.mark.filterwarnings("ignore")  # Ray's own, about itself
def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = YAML(typ="safe").load((Path(__file__).parents[1] / "cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]
    assert all("127.0.0.1" in command for command in prepared["head_start_ray_commands"] if "--head" in command)
