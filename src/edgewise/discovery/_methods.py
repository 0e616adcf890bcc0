"""The records of our own methods, in the order in which they are listed."""

from edgewise.discovery import _configs as configs
from edgewise.discovery import _learned_configs as learned
from edgewise.discovery._catalogue import Ladder, Method, register

_HERE = "edgewise.discovery"

register(
    Method(
        name="ranking",
        section="Learned ranking",
        summary="learn one score per edge such that the top k edges are a good circuit for every k",
        run=f"{_HERE}:learn_ranking",
        config=learned.RankingConfig,
        learns=True,
        positions=True,
        features=True,
        resumes=True,
        start="may",
        joint="yes",
        cost="F + B per step and example, masked",
        source="after Matryoshka Attribution, 2026",
    )
)
register(
    Method(
        name="edge-pruning",
        section="Edge Pruning",
        summary="learn hard-concrete masks over all edges for a circuit of one size",
        run=f"{_HERE}:edge_pruning",
        config=learned.EdgePruningConfig,
        presets={"paper": learned.PAPER},
        gives="circuit",
        learns=True,
        positions=True,
        features=True,
        resumes=True,
        start="may",
        joint="yes",
        cost="the same",
        source="Bhaskar et al. 2024",
    )
)
register(
    Method(
        name="node-pruning",
        section="Node pruning",
        summary="learn a ranking of whole components, each with one mask for all that reads it",
        run=f"{_HERE}:node_pruning",
        config=learned.NodePruningConfig,
        learns=True,
        features=True,
        resumes=True,
        joint="yes",
        cost="the same",
        source="ours",
    )
)
register(
    Method(
        name="refine",
        section="Learned ranking",
        summary="fit a ranking to one size by some more steps on hard circuits of that size",
        run=f"{_HERE}:refine_at_size",
        config=learned.RefineConfig,
        gives="circuit",
        learns=True,
        positions=True,
        features=True,
        resumes=True,
        start="must",
        joint="yes",
        cost="the same",
        source="ours",
    )
)
register(
    Method(
        name="random",
        section="Random",
        summary="uniform scores from the seed: what a circuit has to beat",
        run=f"{_HERE}:random_scores",
        config=configs.RandomConfig,
        positions=True,
        features=True,
        ablations="none needed",
        cost="nothing",
    )
)
register(
    Method(
        name="eap",
        section="EAP",
        summary="edge attribution patching: the mask gradient at the full model",
        run=f"{_HERE}:eap",
        config=configs.EapConfig,
        signs=("absolute", "signed"),
        gradient_at="full",
        positions=True,
        features=True,
        cost="2 F + B; with `qk_fix` 4 F + 2 B, and every writer through later queries and keys",
        source="Syed, Rager & Conmy 2023",
    )
)
register(
    Method(
        name="eap-ig",
        section="EAP-IG on inputs",
        summary="EAP with gradients averaged along the input path",
        run=f"{_HERE}:eap_ig",
        config=configs.EapIgConfig,
        signs=("absolute", "signed"),
        gradient_at="path",
        positions=True,
        joint="along one path",
        cost="2 F + m (F + B)",
        source="Hanna, Pezzelle & Belinkov 2024",
    )
)
register(
    Method(
        name="eap-ig-activations",
        section="EAP-IG on activations",
        summary="EAP with gradients averaged along the path of each component's own output",
        run=f"{_HERE}:eap_ig",
        config=configs.EapIgActivationsConfig,
        signs=("absolute", "signed"),
        gradient_at="path",
        positions=True,
        joint="along 2L + 1 paths",
        cost="2 F + some L m (F + B)",
        source="Hanna, Pezzelle & Belinkov 2024",
    )
)
register(
    Method(
        name="mask-ig",
        section="Mask-path IG",
        summary="the mask gradient averaged over masks from 0 to 1",
        run=f"{_HERE}:mask_ig",
        config=configs.MaskIgConfig,
        signs=("absolute", "signed"),
        gradient_at="masks",
        positions=True,
        features=True,
        joint="along the mask's path",
        cost="F + m (F + B), masked",
        source="after Miller, Chughtai & Saunders 2024",
    )
)
register(
    Method(
        name="relevance",
        section="Relevance",
        summary="EAP with relevance propagation's rules for going backwards",
        run=f"{_HERE}:relevance",
        config=configs.RelevanceConfig,
        signs=("absolute", "signed"),
        gradient_at="full",
        positions=True,
        cost="3 F + B",
        source="RelP, Jafari et al. 2025",
    )
)
register(
    Method(
        name="node-eap",
        section="Node attribution",
        summary="the first-order effect of ablating each component, for all that read it at once",
        run=f"{_HERE}:node_eap",
        config=configs.NodeEapConfig,
        signs=("absolute", "signed"),
        gradient_at="full",
        cost="as EAP",
        source="Nanda 2023",
    )
)
register(
    Method(
        name="node-ig",
        section="Node attribution",
        summary="the same with gradients averaged along the input path",
        run=f"{_HERE}:node_ig",
        config=configs.NodeIgConfig,
        signs=("absolute", "signed"),
        gradient_at="path",
        joint="along one path",
        cost="as EAP-IG",
        source="Mueller et al. 2025",
    )
)
register(
    Method(
        name="atp-star",
        section="AtP*",
        summary="attribution of components with its two failures mended",
        run=f"{_HERE}:atp_star",
        config=configs.AtpStarConfig,
        signs=("absolute", "signed"),
        gradient_at="full",
        cost="3 F + L B",
        source="Kramár et al. 2024",
    )
)
register(
    Method(
        name="information-flow",
        section="Information flow",
        summary="how much of each reader's input each writer makes up",
        run=f"{_HERE}:information_flow",
        config=configs.InformationFlowConfig,
        signs=("absolute", "signed"),
        positions=True,
        ablations="none needed",
        cost="F",
        source="Ferrando & Voita 2024",
    )
)
register(
    Method(
        name="exact-patching",
        section="Exact patching",
        summary="every edge's own effect, by running the model without it",
        run=f"{_HERE}:exact_patching",
        config=configs.ExactPatchingConfig,
        signs=("absolute", "signed"),
        resumes=True,
        cost="some E F / 3",
        source="Conmy et al. 2023",
    )
)
register(
    Method(
        name="ensemble",
        section="Ensemble",
        summary="the mean of several methods' ranks",
        run=f"{_HERE}:find_ensemble",
        config=configs.EnsembleConfig,
        positions=True,
        features=True,
        joint="as they do",
        cost="its members'",
        source="after the BlackboxNLP shared task 2025",
    )
)
register(
    Method(
        name="acdc",
        section="ACDC",
        summary="cut every edge whose removal raises the loss by less than a threshold, from the output back",
        run=f"{_HERE}:acdc",
        config=configs.AcdcConfig,
        gives="circuit",
        ladder=Ladder("threshold", f"{_HERE}:acdc_ladder", (0.1, 0.03, 0.01, 0.003, 0.001)),
        resumes=True,
        joint="greedily",
        cost="at most E F, mostly far less",
        source="Conmy et al. 2023",
    )
)
