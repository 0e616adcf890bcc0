"""The records of our own methods, in the order in which they are listed; to add one, append its record here.

Each has its name, its section in docs/methods.md, its settings (whose docstring is its summary), its function, what it
costs and who published it; then what else it can do.
"""

from typing import Any, Literal

from edgewise.discovery import _configs as configs
from edgewise.discovery import _learned_configs as learned
from edgewise.discovery._catalogue import Ladder, Method, register

_BOTH: tuple[Literal["absolute", "signed"], ...] = ("absolute", "signed")
_LEARNED: dict[str, Any] = {"learns": True, "features": True, "resumes": True, "joint": "yes"}
_HANNA = "Hanna, Pezzelle & Belinkov 2024"


def _ours(
    name: str, section: str, config: type[configs.MethodConfig], run: str, cost: str, source: str, **can: Any
) -> None:
    run = f"edgewise.discovery:{run}"
    register(Method(name=name, section=section, config=config, run=run, cost=cost, source=source, **can))


# fmt: off
_ours("ranking", "Learned ranking", learned.RankingConfig, "learn_ranking", "F + B per step and example, masked",
      "after Matryoshka Attribution, 2026", positions=True, start="may", **_LEARNED)
_ours("edge-pruning", "Edge Pruning", learned.EdgePruningConfig, "edge_pruning", "the same", "Bhaskar et al. 2024",
      presets={"paper": learned.PAPER}, gives="circuit", positions=True, start="may", **_LEARNED)
_ours("node-pruning", "Node pruning", learned.NodePruningConfig, "node_pruning", "the same", "ours", **_LEARNED)
_ours("refine", "Learned ranking", learned.RefineConfig, "refine_at_size", "the same", "ours",
      gives="circuit", positions=True, start="must", **_LEARNED)
_ours("random", "Random", configs.RandomConfig, "random_scores", "nothing", "",
      positions=True, features=True, ablations="none needed")
_ours("eap", "EAP", configs.EapConfig, "eap",
      "2 F + B; with `qk_fix` 4 F + 2 B, and every writer through later queries and keys", "Syed, Rager & Conmy 2023",
      signs=_BOTH, gradient_at="full", positions=True, features=True)
_ours("eap-ig", "EAP-IG on inputs", configs.EapIgConfig, "eap_ig", "2 F + m (F + B)", _HANNA,
      signs=_BOTH, gradient_at="path", positions=True, joint="along one path")
_ours("eap-ig-activations", "EAP-IG on activations", configs.EapIgActivationsConfig, "eap_ig", "2 F + some L m (F + B)",
      _HANNA, signs=_BOTH, gradient_at="path", positions=True, joint="along 2L + 1 paths")
_ours("mask-ig", "Mask-path IG", configs.MaskIgConfig, "mask_ig", "F + m (F + B), masked",
      "after Miller, Chughtai & Saunders 2024", signs=_BOTH, gradient_at="masks", positions=True, features=True,
      joint="along the mask's path")
_ours("relevance", "Relevance", configs.RelevanceConfig, "relevance", "3 F + B", "RelP, Jafari et al. 2025",
      signs=_BOTH, gradient_at="full", positions=True)
_ours("node-eap", "Node attribution", configs.NodeEapConfig, "node_eap", "as EAP", "Nanda 2023",
      signs=_BOTH, gradient_at="full")
_ours("node-ig", "Node attribution", configs.NodeIgConfig, "node_ig", "as EAP-IG", "Mueller et al. 2025",
      signs=_BOTH, gradient_at="path", joint="along one path")
_ours("atp-star", "AtP*", configs.AtpStarConfig, "atp_star", "3 F + L B", "Kramár et al. 2024",
      signs=_BOTH, gradient_at="full")
_ours("information-flow", "Information flow", configs.InformationFlowConfig, "information_flow", "F",
      "Ferrando & Voita 2024", signs=_BOTH, positions=True, ablations="none needed")
_ours("exact-patching", "Exact patching", configs.ExactPatchingConfig, "exact_patching", "some E F / 3",
      "Conmy et al. 2023", signs=_BOTH, resumes=True)
_ours("ensemble", "Ensemble", configs.EnsembleConfig, "find_ensemble", "its members'",
      "after the BlackboxNLP shared task 2025", positions=True, features=True, joint="as they do")
_ours("acdc", "ACDC", configs.AcdcConfig, "acdc", "at most E F, mostly far less", "Conmy et al. 2023",
      gives="circuit", resumes=True, joint="greedily",
      ladder=Ladder("threshold", "edgewise.discovery:acdc_ladder", (0.1, 0.03, 0.01, 0.003, 0.001)))
