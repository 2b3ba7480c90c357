"""The configuration as frozen structs. Every key has a default unless a worker, route or collection cannot do without.

Units are part of a key's name (`_ms`, `_bytes`, `_chars`, `_tokens`); a duration of 0 means "no limit" only where the
key says so. What each key is for stands in `config.descriptions`.
Each component is given its own section and never the whole.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

# `(?!\n)$`: a bare `$` also matches before a newline at the end. A description is what `headgate check` expected.
Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}(?!\n)$",
        description="a name of at most 128 letters, digits and . _ : / - that begins with a letter or digit",
    ),
]
Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:%-]+(?!\n)$", description="an IP address or a host name")]
Folder = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]+(?!\n)$", description="the path of a folder")]
File = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]+(?!\n)$", description="the path of a file")]
AllowedHost = Annotated[
    str,
    Meta(
        pattern=r"^(?:(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?!\n)$",
        description="a host name, *. before one for all under it, or an IP address; then a port, for that one only",
    ),
]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Milliseconds = Annotated[int, Meta(ge=1, le=86_400_000)]
MillisecondsOrNever = Annotated[int, Meta(ge=0, le=86_400_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]
Tokens = Annotated[int, Meta(ge=16, le=100_000_000)]
Url = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^\s/?#]+[^\s?#]*(?!\n)$",
        description="an address that begins with http:// or https:// and has no query",
    ),
]
Target = Annotated[
    str,
    Meta(
        pattern=r"^(?:unix:/[^\x00-\x20]+|[A-Za-z0-9._-]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5})(?!\n)$",
        description="host:port, or unix:/path of a socket",
    ),
]
KeepAlive = Annotated[  # as Go reads durations, which Ollama is written in
    str,
    Meta(
        pattern=r"^\s*(?:-?[0-9]{1,9}|[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:ns|us|µs|ms|s|m|h))+)\s*(?!\n)$",
        description="a duration, like 5m or 1h30m, a number of seconds, or -1 for ever",
    ),
]
Answer = Annotated[str, Meta(pattern=r"\S", description="a text that says something")]
Option = str | bool | Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)] | Annotated[float, Meta(ge=-1e300, le=1e300)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Shards = Annotated[int, Meta(ge=1, le=256)] | Literal["auto"]
Weight = Annotated[float, Meta(ge=0.0, le=1000.0)]
Concurrency = Count | Literal["adaptive"]
WORKER_FILES = ("tokenizer", "ca_file", "gguf")  # keys of workers that name a file
LOCAL_EMBEDDERS = ("auto", "minilm", "lexical")
ClassName = Literal["critical", "high", "normal", "low"]  # in the order in which they are served


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Root of all sections: unknown keys are errors."""


class ServerSection(Section, frozen=True, kw_only=True):
    """The public listener and the life of a request outside the stages."""

    host: Host = "127.0.0.1"
    port: Port = 8080  # 0: a free one, printed at start
    shards: Shards = "auto"  # processes that serve; auto: one for each core that this process may run on
    pin_cores: bool = False
    tls_certificate: File | None = None  # PEM, the whole chain; both or none
    tls_key: File | None = None
    data_dir: Folder = ".headgate"  # collections, converted models, sockets; relative to the working directory
    backlog: Count = 1024
    max_connections: Count = 4096
    max_head_bytes: Bytes = 16_384
    max_body_bytes: Bytes = 8_388_608
    head_timeout_ms: Milliseconds = 10_000
    body_timeout_ms: Milliseconds = 30_000
    idle_timeout_ms: Milliseconds = 75_000
    deadline_ms: Milliseconds = 300_000  # for requests whose route and head say nothing
    max_deadline_ms: Milliseconds = 900_000
    anonymous: bool | None = None  # requests without a key; None: where there are no keys and the host is loopback
    anonymous_class: ClassName = "normal"
    hold_max_ms: Milliseconds = 15_000  # how long a stream's status line waits for the first delta
    keepalive_comment_ms: Milliseconds = 10_000  # between comment lines while a held stream waits on
    drain_timeout_ms: Milliseconds = 30_000
    start_timeout_ms: Milliseconds = 60_000
    stall_ms: Milliseconds = 250  # an event loop that does not turn for so long is logged, with what it is doing
    blocked_ms: Milliseconds = 10_000  # a process whose event loop does not turn for so long is replaced
    restart_limit: Count = 10  # deaths in a row, none after 30 s of health, after which a process is given up
    reload_on_change: bool = False


class AdminSection(Section, frozen=True, kw_only=True):
    """The operators' listener. Elsewhere than on this machine it needs a token and TLS."""

    enabled: bool = True
    host: Host = "127.0.0.1"
    port: Port = 9901  # 0: a free one, logged at start
    token: str | None = None  # a reference: env:NAME or file:PATH
    tls_certificate: File | None = None
    tls_key: File | None = None


class StageSection(Section, frozen=True, kw_only=True):
    """`capacity`: places in the queue in front of the stage. `concurrency`: requests in the stage at once."""

    capacity: Count = 512
    concurrency: Count = 64


class AssembleStage(StageSection, frozen=True, kw_only=True):
    concurrency: Count = 4  # prompts too large for the event loop are rendered in this many threads


class InferenceStage(Section, frozen=True, kw_only=True):
    """`concurrency`: backend calls at once for each worker that says nothing else."""

    capacity: Count = 1024
    concurrency: Concurrency = "adaptive"
    max_concurrency: Count = 256  # what an adaptive limit never exceeds


class PostStage(StageSection, frozen=True, kw_only=True):
    concurrency: Count = 1024


class StreamStage(StageSection, frozen=True, kw_only=True):
    capacity: Count = 256
    concurrency: Count = 1024  # answers being written at once
    flush_ms: Annotated[int, Meta(ge=0, le=100)] = 8  # under load, what comes within so long goes out in one write
    flush_load: Share = 0.15  # from this share of its core in use on, a shard is under load


class StagesSection(Section, frozen=True, kw_only=True):
    rag: StageSection = StageSection()
    assemble: AssembleStage = AssembleStage()
    inference: InferenceStage = InferenceStage()
    post: PostStage = PostStage()
    stream: StreamStage = StreamStage()


class AdmissionSection(Section, frozen=True, kw_only=True):
    """Who is served when more is asked for than can be done."""

    wait_budget_ms: Milliseconds | Literal["auto", "off"] = "auto"
    codel: bool = True
    codel_interval_ms: Milliseconds = 200
    fair: bool = True  # by class, key and session; false: in order of arrival
    head_gate: bool = True


class WorkerSection(Section, tag_field="kind", frozen=True, kw_only=True):
    """What all kinds of workers have. `context_tokens` is the model's window: prompt and answer together. A worker is a
    pool of replicas, of one where nothing else is said."""

    name: Name
    context_tokens: Tokens = 8_192
    answer_tokens: Tokens = 1_024  # kept free for the answer when the request sets no max_tokens
    first_delta_timeout_ms: Milliseconds = 60_000
    gap_timeout_ms: Milliseconds = 30_000
    total_timeout_ms: Milliseconds = 600_000
    high_water_deltas: Count = 64  # a client this far behind stops the reading of its backend call
    concurrency: Concurrency | None = None  # None: as `stages.inference` says
    requests_per_minute: Count | None = None  # a provider's own quota: calls beyond it wait
    tokens_per_minute: Tokens | None = None
    drain: bool = False  # no new requests; those let in are finished
    tokenizer: File | None = None  # of the model, tokenizer.json: prompts are counted by it
    affinity: bool = True  # a session stays with its replica
    replica_concurrency: Count | None = None  # calls at once to each replica, over all shards; None: as it says itself
    retries: Annotated[int, Meta(ge=0, le=10)] = 2  # of a call that failed before its first delta
    retry_budget: Share = 0.1  # retries at most, as a share of the requests
    retry_base_ms: Milliseconds = 50  # the pause before a retry is drawn from zero to this, doubled each time
    retry_max_ms: Milliseconds = 2_000
    breaker_failures: Annotated[int, Meta(ge=0, le=10_000)] = 5  # in a row, then a replica is not called; 0: never
    breaker_rate: Share = 0.4  # of its last 20 calls failed, then as well; 0: never
    breaker_open_ms: Milliseconds = 1_000  # until one call is tried again; doubled each time that it fails
    breaker_max_open_ms: Milliseconds = 60_000
    health_interval_ms: MillisecondsOrNever = 5_000  # between looks at each replica; 0: none
    slow_start_ms: MillisecondsOrNever = 10_000  # in which a replica that is back gets its full share again

    @property
    def replica_names(self) -> list[str]:
        """What its replicas are called in metrics, logs and the admin API, each once; sessions are placed by them."""
        return ["0"]


class EchoWorker(WorkerSection, tag="echo", frozen=True, kw_only=True):
    """Answers with the newest user message, word by word: for tests, demonstrations and measuring."""

    first_token_ms: MillisecondsOrNever = 0
    tokens_per_s: Annotated[float, Meta(ge=0.0, le=1_000_000.0)] = 0.0  # 0: all at once
    tokens: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # length of every answer; 0: as long as the message
    tokens_per_batch: Count = 1
    failure_rate: Share = 0.0
    capacity: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # answers at once, others wait; 0: unlimited
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0


class ExtractiveWorker(WorkerSection, tag="extractive", frozen=True, kw_only=True):
    """Quotes the sentences of the retrieved passages that best match the question. Needs no model."""

    max_sentences: Annotated[int, Meta(ge=1, le=20)] = 3
    min_match: Share = 0.34  # share of the question's weight that a sentence must cover


class HttpWorker(WorkerSection, frozen=True, kw_only=True):
    """What the workers have in common that call their backend over HTTP."""

    base_url: Url | None = None  # either this, or `replicas`, or where the kind has one the provider's own
    replicas: Annotated[list[Url], Meta(max_length=256)] = field(default_factory=list)  # instances of the same model
    model: str | None = None  # None: the name that the client asked for
    api_key: str | None = None  # a reference: env:NAME or file:PATH
    headers: dict[str, str] = field(default_factory=dict)
    ca_file: File | None = None  # PEM, who signed the backend's certificate; None: those that the machine trusts
    connect_timeout_ms: Milliseconds = 5_000
    max_connections: Count = 1024  # to each replica
    idle_connection_ms: Milliseconds = 4_000  # most servers close theirs after five seconds

    @property
    def usual_url(self) -> str | None:
        """Where a backend of this kind is found when nothing is said."""
        return None

    @property
    def urls(self) -> list[str]:
        """The replicas' addresses, without a slash at the end."""
        urls = self.replicas or [self.base_url or self.usual_url or ""]
        return [url.rstrip("/") for url in urls]

    @property
    def replica_names(self) -> list[str]:
        """Host, port and path; the address is public to those who see metrics."""
        return [url.partition("://")[2] for url in self.urls]


class OpenAIWorker(HttpWorker, tag="openai", frozen=True, kw_only=True):
    """Any server that speaks OpenAI's chat completions: vLLM, llama.cpp's server, Ollama, TGI, LM Studio. `base_url` is
    with the version, as clients write it: http://127.0.0.1:8000/v1."""

    stream_usage: bool = True  # ask for usage at the end of streams; false for servers that refuse stream_options
    completions: Literal["native", "chat"] = "native"  # where requests to /v1/completions go: the same there, or chat


class AnthropicWorker(HttpWorker, tag="anthropic", frozen=True, kw_only=True):
    """Anthropic's Messages, or a server that speaks them. `base_url` is without /v1."""

    version: Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?!\n)$", description="a date")] = "2023-06-01"

    @property
    def usual_url(self) -> str:
        return "https://api.anthropic.com"


class CohereWorker(HttpWorker, tag="cohere", frozen=True, kw_only=True):
    """Cohere's chat, version 2. `base_url` is without /v2."""

    @property
    def usual_url(self) -> str:
        return "https://api.cohere.com"


class OllamaWorker(HttpWorker, tag="ollama", frozen=True, kw_only=True):
    """Ollama's own API. `base_url` is without /api."""

    keep_alive: KeepAlive | None = None  # how long the model stays loaded; None: its default

    @property
    def usual_url(self) -> str:
        return "http://127.0.0.1:11434"


class GrpcWorker(WorkerSection, tag="grpc", frozen=True, kw_only=True):
    """A server of Headgate's own streaming protocol, `workers/worker.proto`."""

    target: Target | None = None  # either this or `replicas`
    replicas: Annotated[list[Target], Meta(max_length=256)] = field(default_factory=list)
    model: str | None = None  # None: the name that the client asked for
    api_key: str | None = None  # a reference; sent as `authorization: Bearer`
    tls: bool = False
    ca_file: File | None = None
    connect_timeout_ms: Milliseconds = 5_000

    @property
    def targets(self) -> list[str]:
        return self.replicas or [self.target or ""]

    @property
    def replica_names(self) -> list[str]:
        return list(self.targets)


class PythonWorker(WorkerSection, tag="python", frozen=True, kw_only=True):
    """Anyone's class, in the shard's own process."""

    class_: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*(?!\n)$|^[A-Za-z_][\w-]*(?!\n)$",
            description="package.module:Class, or the name of an entry point in the group headgate.workers",
        ),
    ] = field(name="class")
    folder: Folder | None = None  # where its module is looked for first; None: the configuration file's
    options: dict[str, Option] = field(default_factory=dict)  # given to the class by name
    instances: Annotated[int, Meta(ge=1, le=64)] = 1  # replicas, in each shard

    @property
    def replica_names(self) -> list[str]:
        return [str(number) for number in range(self.instances)]


class LlamaCppWorker(WorkerSection, tag="llama-cpp", frozen=True, kw_only=True):
    """A model file in GGUF, served by llama.cpp in a process of its own."""

    gguf: File
    slots: Annotated[int, Meta(ge=1, le=256)] = 4  # calls that it works on at once; each has context_tokens
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0  # 0: as llama.cpp chooses
    gpu_layers: Annotated[int, Meta(ge=0, le=100_000)] = 0  # of the model, on the GPU
    load_timeout_ms: Milliseconds = 600_000  # for the model to be ready


AnyWorker = (
    EchoWorker
    | ExtractiveWorker
    | OpenAIWorker
    | AnthropicWorker
    | CohereWorker
    | OllamaWorker
    | GrpcWorker
    | PythonWorker
    | LlamaCppWorker
)


class StopFilter(Section, tag_field="kind", tag="stop", frozen=True, kw_only=True):
    """Ends the answer before the first of `sequences`."""

    sequences: Annotated[list[Annotated[str, Meta(min_length=1, max_length=256)]], Meta(min_length=1, max_length=64)]


class RedactFilter(Section, tag_field="kind", tag="redact", frozen=True, kw_only=True):
    """Replaces every match of a regular expression, also across deltas.

    `max_match_chars` bounds how long a match can be waited for.
    """

    pattern: Annotated[str, Meta(min_length=1, max_length=4096)]
    replacement: str = "[redacted]"
    max_match_chars: Annotated[int, Meta(ge=1, le=65_536)] = 256


class MaxLengthFilter(Section, tag_field="kind", tag="max_length", frozen=True, kw_only=True):
    """Ends the answer after so many characters, with finish_reason `length`."""

    chars: Count


AnyFilter = StopFilter | RedactFilter | MaxLengthFilter


class FewerPassages(Section, tag_field="kind", tag="fewer_passages", frozen=True, kw_only=True):
    """From `pressure` on, a request gets no more than so many passages."""

    passages: Annotated[int, Meta(ge=0, le=100)]
    pressure: Share = 0.5  # estimated wait as a share of what is allowed


class ShorterAnswer(Section, tag_field="kind", tag="shorter_answer", frozen=True, kw_only=True):
    """From `pressure` on, an answer gets no longer than so many tokens."""

    max_tokens: Count
    pressure: Share = 0.5


AnyDegrade = FewerPassages | ShorterAnswer


class WeightedWorker(Section, frozen=True, kw_only=True):
    """One of several workers of a route. A session stays with its worker while the weights stay."""

    worker: Name
    weight: Weight = 1.0  # of its share of the sessions; 0: none


class RouteSection(Section, frozen=True, kw_only=True):
    """A virtual model: what clients name in `model`."""

    name: Name
    worker: Name | None = None  # either this or `workers`
    workers: Annotated[list[WeightedWorker], Meta(max_length=64)] = field(default_factory=list)
    fallback: Annotated[list[Name], Meta(max_length=16)] = field(default_factory=list)  # workers, in this order
    static_answer: Answer | None = None  # what is said when all of them have failed
    collection: Name | None = None
    passages: Annotated[int, Meta(ge=1, le=100)] = 6  # how many to retrieve
    on_retrieval_failure: Literal["fail", "answer"] = "fail"
    retrieval_timeout_ms: Milliseconds = 5_000
    system: str = ""  # a system message of the route's own, before the client's
    template: str | None = None  # jinja2 text of the system message; None: the built-in one where there is a collection
    template_file: str | None = None
    template_max_chars: Count = 200_000
    template_timeout_ms: Milliseconds = 100
    filters: list[AnyFilter] = field(default_factory=list)
    deadline_ms: Milliseconds | None = None
    wait_budget_ms: Milliseconds | None = None  # None: as `admission` says
    degrade: Annotated[list[AnyDegrade], Meta(max_length=16)] = field(default_factory=list)
    rename_model: bool = False  # answers name the route as their model instead of the backend's own name
    description: str = ""

    @property
    def shares(self) -> list[WeightedWorker]:
        """The workers that serve it, also where it is one."""
        return self.workers if self.worker is None else [WeightedWorker(worker=self.worker)]

    @property
    def all_workers(self) -> list[str]:
        """Whoever may come to serve it."""
        return list(dict.fromkeys([*(share.worker for share in self.shares), *self.fallback]))


class KeySection(Section, frozen=True, kw_only=True):
    """An API key, of which only the hash is known here (`headgate key new` makes one)."""

    name: Name
    hash: Annotated[
        str,
        Meta(
            pattern=r"^sha256:[0-9a-f]{64}(?!\n)$", description="sha256: and 64 hexadecimal digits, by headgate key new"
        ),
    ]
    routes: list[Name] = field(default_factory=list)  # empty: all
    class_: ClassName = field(default="normal", name="class")
    weight: Annotated[float, Meta(ge=0.01, le=1000.0)] = 1.0  # of its share within its class
    requests_per_minute: Count | None = None
    tokens_per_minute: Tokens | None = None  # prompt and answer together
    concurrency: Count | None = None  # requests at once
    revoked: bool = False


class CollectionSection(Section, frozen=True, kw_only=True):
    """Documents that routes answer from."""

    name: Name
    store: Literal["embedded", "qdrant", "memory"] = "embedded"
    embedder: Name = "auto"  # auto, minilm, lexical, or the name of a worker that can embed
    embedding_model: str | None = None  # None: the worker's model
    dimension: Annotated[int, Meta(ge=1, le=65_536)] | None = None  # of a worker's vectors
    url: Url | None = None  # of a Qdrant server, for store = "qdrant"
    api_key: str | None = None  # a reference: env:NAME or file:PATH
    timeout_ms: Milliseconds = 5_000
    chunk_chars: Annotated[int, Meta(ge=200, le=20_000)] = 1_200
    overlap_chars: Annotated[int, Meta(ge=0, le=5_000)] = 150


class KnowledgeSection(Section, frozen=True, kw_only=True):
    """The process that owns the embedded store and the embedder."""

    capacity: Count = 256  # queries waiting
    batch: Annotated[int, Meta(ge=1, le=256)] = 32  # queries embedded together
    threads: Annotated[int, Meta(ge=1, le=64)] = 1  # of the embedder


class LoggingSection(Section, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    prompts: bool = False  # log the text of prompts at debug level; off: never
    refusals_per_s: Annotated[int, Meta(ge=0, le=1_000_000)] = 10  # lines for each reason, in each shard


class WorkflowsSection(Section, frozen=True, kw_only=True):
    """Declared workflows and their runs. Limits of steps and runs at once are each shard's own."""

    enabled: bool = True
    journal: Literal["sqlite", "memory"] = "sqlite"
    journal_file: File | None = None  # None: workflows.db in server.data_dir
    synchronous: Literal["normal", "full"] = "normal"
    max_runs: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000  # that have not ended; more are refused
    max_executing: Count = 2000  # runs under way at once; more are pending
    max_steps: Count = 1024  # steps under way at once
    max_steps_per_run: Count = 64
    type_limits: dict[str, Count] = field(default_factory=dict)  # steps under way at once, by type
    run_timeout_ms: MillisecondsOrNever = 3_600_000  # of runs whose workflow says nothing; 0: none
    step_timeout_ms: MillisecondsOrNever = 600_000  # of attempts of steps that say nothing; 0: none
    lease_ms: Annotated[int, Meta(ge=1000, le=600_000)] = 10_000
    retention_hours: Annotated[int, Meta(ge=0, le=87_600)] = 168  # 0: for good
    max_value_bytes: Bytes = 16_777_216  # of what one step comes to, as JSON
    inline_value_bytes: Bytes = 4096  # larger values are stored apart, and once
    template_max_chars: Count = 1_000_000
    template_timeout_ms: Milliseconds = 100
    hosts: list[AllowedHost] = field(default_factory=list)
    files_dir: Folder | None = None
    action_timeout_ms: Milliseconds = 30_000


class Config(Section, frozen=True, kw_only=True):
    server: ServerSection = ServerSection()
    admin: AdminSection = AdminSection()
    stages: StagesSection = StagesSection()
    admission: AdmissionSection = AdmissionSection()
    knowledge: KnowledgeSection = KnowledgeSection()
    logging: LoggingSection = LoggingSection()
    workflows: WorkflowsSection = WorkflowsSection()
    workers: Annotated[list[AnyWorker], Meta(min_length=1, max_length=1000)]
    routes: Annotated[list[RouteSection], Meta(min_length=1, max_length=1000)]
    collections: list[CollectionSection] = field(default_factory=list)
    keys: Annotated[list[KeySection], Meta(max_length=100_000)] = field(default_factory=list)
