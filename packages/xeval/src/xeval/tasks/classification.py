"""One label per text or pair of texts: inference, paraphrase, topic. Accuracy and macro F1."""

from xeval.task_templates.hub import CONVERTED, HubSet
from xeval.task_templates.text_labels import hub_texts, text_classification

_NLI_LABELS = {"label": ["entailment", "neutral", "contradiction"]}

TASKS = (
    text_classification(
        name="nli",
        title="natural language inference",
        folder="nli",
        columns=("premise", "hypothesis", "label"),
        hub=(
            HubSet(
                name="xnli",
                repository="facebook/xnli",
                example=hub_texts("premise", "hypothesis"),
                labels=_NLI_LABELS,
                languages="ar bg de el en es fr hi ru sw th tr ur vi zh",
                licence="CC BY-NC 4.0",
                citation="Conneau et al. 2018: XNLI: Evaluating Cross-lingual Sentence Representations",
            ),
            HubSet(
                name="americasnli",
                repository="nala-cub/americas_nli",
                splits={"dev": "validation", "test": "test"},
                example=hub_texts("premise", "hypothesis"),
                labels=_NLI_LABELS,
                languages="aym bzd cni gn hch nah oto quy shp tar",
                licence="CC BY-SA 4.0",
                citation="Ebrahimi et al. 2022: AmericasNLI: Zero-shot Natural Language Understanding of Indigenous Languages",
            ),
        ),
    ),
    text_classification(
        name="paraphrase",
        title="paraphrase",
        folder="paraphrase",
        columns=("sentence1", "sentence2", "label"),
        hub=(
            HubSet(
                name="paws-x",
                repository="google-research-datasets/paws-x",
                example=hub_texts("sentence1", "sentence2"),
                languages="de en es fr ja ko zh",
                licence="free for any use; the authors ask to be named as its source",
                citation="Yang et al. 2019: PAWS-X: A Cross-lingual Adversarial Dataset for Paraphrase Identification",
            ),
        ),
    ),
    text_classification(
        name="topic",
        title="topic classification",
        folder="sib200",
        columns=("category", "text"),
        label="category",
        hub=(
            HubSet(
                name="sib200",
                repository="Davlan/sib200",
                configurations=r"([a-z]{3})_[A-Z][a-z]{3}",
                example=hub_texts("text", label="category"),
                languages="205, with their scripts, such as deu_Latn",
                licence="CC BY-SA 4.0",
                citation="Adelani et al. 2024: SIB-200: Topic Classification in 200+ Languages and Dialects",
            ),
            HubSet(
                name="masakhanews",
                repository="masakhane/masakhanews",
                example=hub_texts("headline_text"),
                revision=CONVERTED,
                languages="amh eng fra hau ibo lin lug orm pcm run sna som swa tir xho yor",
                licence="AFL 3.0",
                citation="Adelani et al. 2023: MasakhaNEWS: News Topic Classification for African Languages",
            ),
        ),
    ),
)
