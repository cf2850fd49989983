"""What a real API server makes of the custom resource definitions."""

import json
import uuid
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_fleet.api import names
from ollama_fleet.api.crd import DEFINITIONS, Definition
from ollama_fleet.api.environment import OWNED, TUNED
from ollama_fleet.api.schema import structural
from tests.support.builders import DIGEST, gpu, model_set, node_vram_report, ollama_deployment
from tests.support.raw_api import MERGE, TABLE, RawApi, collection, location
from tests.support.schema_documents import documents

pytestmark = pytest.mark.cluster

Document = dict[str, Any]


@pytest.fixture(scope="module")
def api(control_plane: Any) -> RawApi:
    return RawApi(control_plane.kubeconfig)


@pytest.fixture
def name() -> str:
    return f"crd-{uuid.uuid4().hex[:8]}"


def one(**fields: Any) -> Document:
    """A ModelSet of one entry."""
    return model_set("chat", {"name": "chat", **fields})


def tuned(**fields: Any) -> Document:
    return ollama_deployment(tuning=fields)


def embeddings(**spec: Any) -> Document:
    """Without hardware, which only profile embedding may leave out."""
    document = ollama_deployment(**{"profile": "embedding", **spec})
    del document["spec"]["hardware"]
    return document


def variable(name: str) -> Document:
    return tuned(extraEnv=[{"name": name, "value": "1"}])


def cached(**fields: Any) -> Document:
    return ollama_deployment(storage={"cache": fields})


@pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda kind: kind.kind)
def test_the_definition_is_established_and_structural(api: RawApi, kind: Definition) -> None:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.{names.GROUP}"
    found = api.call("GET", path).document
    conditions = {condition["type"]: condition for condition in found["status"]["conditions"]}
    assert conditions["Established"]["status"] == "True"
    assert conditions["NamesAccepted"]["status"] == "True"
    assert conditions.get("NonStructuralSchema", {"status": "False"})["status"] == "False"


def test_discovery_knows_short_names_and_categories(api: RawApi) -> None:
    listed = api.call("GET", f"/apis/{names.API_VERSION}").document["resources"]
    found = {entry["name"]: (entry.get("shortNames"), entry.get("categories")) for entry in listed}
    assert found["ollamadeployments"] == (["od"], ["ollama", "all"])
    assert found["modelsets"] == (["mset"], ["ollama", "all"])
    assert found["nodevramreports"] == (["nvr"], ["ollama"])
    assert "ollamadeployments/scale" in found


@pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda kind: kind.kind)
def test_the_example_of_the_reference_is_accepted(api: RawApi, kind: Definition) -> None:
    example = yaml.safe_load(kind.example)
    if kind.namespaced:
        example["metadata"]["namespace"] = "default"
    answer = api.create(example, dryRun="All")
    assert answer.code == 201, answer.message


VALID: dict[str, Document] = {
    "least deployment": ollama_deployment(version=None),
    "numbers as quantities": ollama_deployment(hardware={"cpu": {"cores": 2, "memory": 2147483648}}),
    "fraction of a core": ollama_deployment(hardware={"cpu": {"cores": "0.5", "memory": "1.5Gi"}}),
    "GPU with everything": ollama_deployment(
        hardware=gpu(2, resourceName="nvidia.com/mig-3g.40gb", products=["NVIDIA-L4", "NVIDIA-A10"], minMemory="22Gi"),
        readiness={"policy": "VRAM", "timeout": "1h30m"},
        tuning={"gpuOverhead": "512Mi", "schedSpread": True, "hostMemory": "64Gi"},
    ),
    "embeddings without hardware": embeddings(),
    "image with version": ollama_deployment(image=f"registry.example.com:5000/ollama@{DIGEST}"),
    "quantised cache, flash attention by default": tuned(kvCacheType="q8_0"),
    "quantised cache with flash attention": tuned(kvCacheType="q4_0", flashAttention=True),
    "plain cache without flash attention": tuned(kvCacheType="f16", flashAttention=False),
    "variable of Ollama": variable("OLLAMA_DEBUG"),
    "node cache": cached(type="Node", path="/var/lib/models"),
    "claim": cached(type="Claim", claimName="models"),
    "bounded emptyDir": cached(type="Ephemeral", sizeLimit="20Gi"),
    "affinity as it comes": ollama_deployment(placement={"affinity": {"nodeAfinity": {"any": [{"thing": 1}]}}}),
    "zero replicas": ollama_deployment(replicas=0, suspend=True),
    "name of 40 characters": ollama_deployment("a" * 40),
    "digest beside the tag": one(model="llama3.1:8b", digest=DIGEST),
    "digest in the reference": one(model=f"llama3.1:8b@{DIGEST}"),
    "reference with scheme and port": one(model="http://registry.example.com:5000/team/model:tag"),
    "OnDemand with keepAlive": one(residency="OnDemand", keepAlive="30m"),
    "parameters of each kind": one(
        modelfile={"parameters": {"temperature": 0.2, "top_k": 40, "use_mmap": False, "stop": ["a", "b"], "seed": -1}}
    ),
    "parameter that the operator will name": one(modelfile={"parameters": {"temprature": 0.2}}),
    "schedule": model_set(updatePolicy={"type": "IfChanged", "schedule": "*/15 2-4 * * MON,TUE"}),
    "names that only begin alike": model_set("chat", {"name": "chat:8b"}, {"name": "chat:70b"}, {"name": "chats"}),
    "64 models": model_set("chat", *({"name": f"m{number}"} for number in range(64))),
    "own registry": model_set(
        source={"registry": "r.example:5000", "caSecretRef": {"name": "ca"}, "pullSecretRef": {"name": "pull"}}
    ),
    "report": node_vram_report("node-1.example.com", retain=[{"digest": DIGEST, "namespace": "a"}]),
    "same blob of two namespaces": node_vram_report(
        retain=[{"digest": DIGEST, "namespace": "a"}, {"digest": DIGEST, "namespace": "b"}]
    ),
}


@pytest.mark.parametrize("document", VALID.values(), ids=VALID)
def test_valid_documents_are_accepted(api: RawApi, document: Document) -> None:
    answer = api.create(document, dryRun="All")
    assert answer.code == 201, answer.message


INVALID: dict[str, tuple[Document, str, str]] = {
    # Rules across fields.
    "name too long": (ollama_deployment("a" * 41), "<nil>", "at most 40 characters: Services are named after it"),
    "name with a digit first": (ollama_deployment("1chat"), "<nil>", "must start with a letter"),
    "name with a dot": (ollama_deployment("chat.a"), "<nil>", "hold only a-z, 0-9 and '-'"),
    "GPU and CPU": (
        ollama_deployment(hardware={**gpu(), "cpu": {"cores": "1", "memory": "1Gi"}}),
        "spec.hardware",
        "set exactly one of hardware.gpu and hardware.cpu",
    ),
    "no hardware": (ollama_deployment(hardware={}), "spec.hardware", "set exactly one of"),
    "image without version": (ollama_deployment(version=None, image="a/b"), "spec.image", "image needs version"),
    "VRAM without GPU": (
        ollama_deployment(readiness={"policy": "VRAM"}),
        "spec.readiness.policy",
        "needs hardware.gpu: use Resident on CPU",
    ),
    "chat without hardware": (embeddings(profile="chat"), "spec", "only profile embedding has a default"),
    "VRAM for embeddings without hardware": (
        embeddings(readiness={"policy": "VRAM"}),
        "spec.readiness.policy",
        "needs hardware.gpu: use Resident on CPU",
    ),
    "GPU overhead without GPU": (tuned(gpuOverhead="1Gi"), "spec.tuning.gpuOverhead", "remove it on CPU"),
    "GPU overhead without hardware": (
        embeddings(tuning={"gpuOverhead": "1Gi"}),
        "spec.tuning.gpuOverhead",
        "remove it on CPU",
    ),
    "host memory without GPU": (
        tuned(hostMemory="1Gi"),
        "spec.tuning.hostMemory",
        "on CPU set hardware.cpu.memory",
    ),
    "quantised cache without flash attention": (
        tuned(kvCacheType="q8_0", flashAttention=False),
        "spec.tuning.kvCacheType",
        "remove flashAttention: false or choose f16",
    ),
    "path of a claim": (
        cached(type="Claim", claimName="a", path="/a"),
        "spec.storage.cache.path",
        "path counts for cache type Node only",
    ),
    "claim without name": (cached(type="Claim"), "spec.storage.cache", "claimName belongs to cache type Claim"),
    "name without claim": (
        cached(type="Node", claimName="a"),
        "spec.storage.cache",
        "claimName belongs to cache type Claim",
    ),
    "size of a node cache": (
        cached(type="Node", sizeLimit="1Gi"),
        "spec.storage.cache.sizeLimit",
        "sizeLimit counts for cache type Ephemeral only",
    ),
    "keepAlive of a pinned model": (
        one(keepAlive="5m"),
        "spec.models[0].keepAlive",
        "keepAlive counts for residency OnDemand only: remove it or set residency",
    ),
    "two digests": (
        one(model=f"a@{DIGEST}", digest=DIGEST),
        "spec.models[0].digest",
        "keep one of model@digest and digest",
    ),
    "context as a parameter": (
        one(modelfile={"parameters": {"num_ctx": 4096}}),
        "spec.models[0].modelfile.parameters",
        "remove it and set contextLength",
    ),
    "names that differ in case": (
        model_set("chat", {"name": "chat"}, {"name": "Chat"}),
        "spec.models",
        "two models share a served name (case and ':latest' do not count): rename one",
    ),
    "names that differ in :latest": (
        model_set("chat", {"name": "chat"}, {"name": "chat:latest"}),
        "spec.models",
        "two models share a served name",
    ),
    "schedule of a pinned set": (
        model_set(updatePolicy={"type": "Pinned", "schedule": "0 * * * *"}),
        "spec.updatePolicy.schedule",
        "schedule counts for type IfChanged only",
    ),
    "certificate without TLS": (
        model_set(source={"insecure": True, "caSecretRef": {"name": "ca"}}),
        "spec.source.caSecretRef",
        "remove it or insecure: true",
    ),
    "a timeout that lets nothing load": (
        ollama_deployment(readiness={"timeout": "500ms"}),
        "spec.readiness.timeout",
        "must be at least 1s",
    ),
    # Values.
    "version": (ollama_deployment(version="latest"), "spec.version", "with three numbers, such as 0.32.3"),
    "image": (ollama_deployment(image="a b"), "spec.image", "must be an image such as"),
    "reference to nothing": (
        ollama_deployment(modelSets=[{"name": "Chat!"}]),
        "spec.modelSets[0].name",
        "must be the name of an object",
    ),
    "no cores": (
        ollama_deployment(hardware={"cpu": {"cores": 0, "memory": "1Gi"}}),
        "spec.hardware.cpu.cores",
        "must be a positive quantity",
    ),
    "memory with a wrong unit": (
        ollama_deployment(hardware={"cpu": {"cores": 1, "memory": "4GB"}}),
        "spec.hardware.cpu.memory",
        "must be a positive quantity",
    ),
    "GPU memory": (ollama_deployment(hardware=gpu(minMemory="-1")), "spec.hardware.gpu.minMemory", "quantity"),
    "resource name": (
        ollama_deployment(hardware=gpu(resourceName="gpu")),
        "spec.hardware.gpu.resourceName",
        "must be an extended resource such as nvidia.com/gpu",
    ),
    "duration": (tuned(keepAlive="5"), "spec.tuning.keepAlive", "must be a duration with units, such as 90s"),
    "variable": (variable("A-B"), "spec.tuning.extraEnv[0].name", "must be the name of a variable"),
    "path": (cached(type="Node", path="var"), "spec.storage.cache.path", "must be an absolute path"),
    "path that climbs": (cached(type="Node", path="/a/../etc"), "spec.storage.cache.path", "no leading '.'"),
    "the root": (cached(type="Node", path="/"), "spec.storage.cache.path", "must be an absolute path"),
    "node label": (
        ollama_deployment(placement={"nodeSelector": {"a": "b c"}}),
        "spec.placement.nodeSelector[a]",
        "must be a label value",
    ),
    "affinity to nodes": (
        ollama_deployment(placement={"affinity": {"nodeAffinity": "gpu"}}),
        "spec.placement.affinity.nodeAffinity",
        "must be of type object",
    ),
    "served name": (model_set("chat", {"name": "a//b"}), "spec.models[0].name", "must be a model name such as chat"),
    "reference": (one(model="a/b/c/d"), "spec.models[0].model", "[host/][namespace/]model[:tag][@digest]"),
    "adapter": (one(modelfile={"adapter": "a b"}), "spec.models[0].modelfile.adapter", "must be a reference"),
    "digest": (one(digest="sha256:12"), "spec.models[0].digest", "sha256: and 64 lower-case hexadecimal digits"),
    "registry": (model_set(source={"registry": "https://a"}), "spec.source.registry", "no scheme"),
    "schedule": (
        model_set(updatePolicy={"type": "IfChanged", "schedule": "hourly"}),
        "spec.updatePolicy.schedule",
        "must be a cron expression of five fields",
    ),
    "namespace": (
        node_vram_report(retain=[{"digest": DIGEST, "namespace": "a.b"}]),
        "spec.retain[0].namespace",
        "must be the name of a namespace",
    ),
    # Limits and types, in the server's own words.
    "no models": ({**model_set(), "spec": {"models": []}}, "spec.models", "at least 1 items"),
    "65 models": (model_set("chat", *({"name": f"m{n}"} for n in range(65))), "spec.models", "at most 64 items"),
    "a name twice": (model_set("chat", {"name": "a"}, {"name": "a"}), "spec.models[1]", "Duplicate value"),
    "a variable twice": (
        tuned(extraEnv=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        "spec.tuning.extraEnv[1]",
        "Duplicate value",
    ),
    "a set twice": (
        ollama_deployment(modelSets=[{"name": "a"}, {"name": "a"}]),
        "spec.modelSets[1]",
        "Duplicate value",
    ),
    "replicas": (ollama_deployment(replicas=-1), "spec.replicas", "greater than or equal to 0"),
    "profile": (ollama_deployment(profile="chatty"), "spec.profile", 'supported values: "chat", "agent"'),
    "GPUs": (ollama_deployment(hardware=gpu(0)), "spec.hardware.gpu.count", "greater than or equal to 1"),
    "cache type": (cached(type="node"), "spec.storage.cache.type", 'supported values: "Ephemeral", "Node", "Claim"'),
    "context": (one(contextLength=1), "spec.models[0].contextLength", "greater than or equal to 4"),
    "slots": (one(parallel=65), "spec.models[0].parallel", "less than or equal to 64"),
    "temperature": (
        one(modelfile={"parameters": {"temperature": "hot"}}),
        "spec.models[0].modelfile.parameters.temperature",
        "must be of type number",
    ),
    "no model sets": (ollama_deployment(modelSets=None), "spec.modelSets", "Required value"),
    "no spec": ({k: v for k, v in ollama_deployment().items() if k != "spec"}, "spec", "Required value"),
}
INVALID |= {
    f"owned {name}": (
        variable(name),
        "spec.tuning.extraEnv[0].name",
        f"{name} belongs to the operator, remove it: {why}",
    )
    for name, why in OWNED.items()
}
INVALID |= {
    f"tuned {name}": (
        variable(name),
        "spec.tuning.extraEnv[0].name",
        f"{name} has a field of its own: set spec.tuning.{field}",
    )
    for name, field in TUNED.items()
}


@pytest.mark.parametrize(("document", "field", "words"), INVALID.values(), ids=INVALID)
def test_invalid_documents_are_refused_with_field_and_remedy(
    api: RawApi, document: Document, field: str, words: str
) -> None:
    answer = api.create(document, dryRun="All")
    assert answer.code == 422, answer.document
    assert any(where == field and words in what for where, what in answer.causes), answer.causes


def test_every_rule_is_refused_by_a_case_of_its_own(api: RawApi) -> None:
    """A rule that no case above trips would be a rule that nobody has seen work."""
    messages = {words for _, _, words in INVALID.values()}
    for kind in DEFINITIONS:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.{names.GROUP}"
        schema = api.call("GET", path).document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for rule in _rules({**schema, "properties": {**schema["properties"], "status": {}}}):
            assert "messageExpression" in rule or any(words in rule["message"] for words in messages), rule


def _rules(schema: Document) -> list[Document]:
    found = list(schema.get("x-kubernetes-validations", []))
    below = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    return found + [rule for inner in below if inner for rule in _rules(inner)]


@pytest.mark.parametrize(
    "document",
    [ollama_deployment(replcias=2), tuned(numParalel=2), one(contextLenght=8192), node_vram_report(retian=[])],
    ids=["spec", "tuning", "model", "report"],
)
def test_unknown_fields_are_refused_under_strict_validation(api: RawApi, document: Document) -> None:
    answer = api.create(document, dryRun="All")
    assert answer.code == 400
    assert "strict decoding error: unknown field" in answer.message


def test_a_new_object_counts_as_not_observed(api: RawApi, name: str) -> None:
    for document in (ollama_deployment(name), model_set(name), node_vram_report(name)):
        created = api.create(document).document
        assert created["status"] == {"observedGeneration": -1}
        api.delete(document)


def test_two_managers_own_entries_of_one_list(api: RawApi, name: str) -> None:
    assert api.apply(model_set(name, {"name": "a", "priority": 1}), "team-a").code == 201
    assert api.apply(model_set(name, {"name": "b"}), "team-b").code == 200
    merged = api.call("GET", location(model_set(name))).document["spec"]["models"]
    assert merged == [{"name": "a", "priority": 1}, {"name": "b"}]
    again = api.apply(model_set(name, {"name": "a"}), "team-a").document["spec"]["models"]
    assert again == [{"name": "a"}, {"name": "b"}]
    conflict = api.apply(model_set(name, {"name": "b", "priority": 2}), "team-c", force="false")
    assert conflict.code == 200, "a field that nobody owns may be added"
    api.delete(model_set(name))


def test_two_managers_own_variables_of_one_deployment(api: RawApi, name: str) -> None:
    first = ollama_deployment(name, tuning={"extraEnv": [{"name": "TZ", "value": "UTC"}]})
    other = ollama_deployment(name, tuning={"extraEnv": [{"name": "OLLAMA_DEBUG", "value": "1"}]})
    assert api.apply(first, "team").code == 201
    merged = api.apply(other, "debugger").document["spec"]["tuning"]["extraEnv"]
    assert {entry["name"] for entry in merged} == {"TZ", "OLLAMA_DEBUG"}
    api.delete(first)


def test_a_condition_has_one_entry_per_type(api: RawApi, name: str) -> None:
    document = ollama_deployment(name)
    api.create(document)
    ready = {"type": "Ready", "status": "True", "reason": "AllWarm", "lastTransitionTime": "2026-11-24T12:00:00Z"}
    path = f"{location(document)}/status"
    twice = api.call("PATCH", path, {"status": {"conditions": [ready, ready]}}, content_type=MERGE)
    assert twice.code == 422
    assert ("status.conditions[1]", 'Duplicate value: {"type":"Ready"}') in twice.causes
    api.delete(document)


def test_the_table_answers_ready_why_and_how_full(api: RawApi, name: str) -> None:
    document = ollama_deployment(name)
    api.create(document)
    ready = {"type": "Ready", "status": "False", "reason": "Pulling", "lastTransitionTime": "2026-11-24T12:00:00Z"}
    # Ready is not the first: columns choose by type.
    conditions = [{**ready, "type": "Stalled", "reason": "Other"}, {**ready, "message": "chat 62 %"}]
    status = {"conditions": conditions, "ready": "1/2", "warm": "0/1", "version": "0.32.3", "endpoint": "http://x"}
    status["vram"] = "15.2/22.5 GiB"
    assert api.call("PATCH", f"{location(document)}/status", {"status": status}, content_type=MERGE).code == 200
    table = api.call("GET", location(document), accept=TABLE).document
    columns = table["columnDefinitions"]
    assert [column["name"] for column in columns if column["priority"] == 0] == [
        "Name", "Ready", "Reason", "Servers", "Warm", "VRAM", "Age",
    ]  # fmt: skip
    cells = dict(zip((column["name"] for column in columns), table["rows"][0]["cells"], strict=True))
    assert cells | {"Age": ""} == {
        "Name": name,
        "Ready": "False",
        "Reason": "Pulling",
        "Servers": "1/2",
        "Warm": "0/1",
        "VRAM": "15.2/22.5 GiB",
        "Version": "0.32.3",
        "Age": "",
        "Endpoint": "http://x",
        "Message": "chat 62 %",
    }
    api.delete(document)


def test_the_columns_of_the_other_kinds(api: RawApi) -> None:
    def narrow(document: Document) -> list[str]:
        table = api.call("GET", collection(document), accept=TABLE).document
        return [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]

    assert narrow(model_set()) == ["Name", "Ready", "Reason", "Resolved", "Bytes", "Age"]
    assert narrow(node_vram_report()) == ["Name", "Ready", "Reason", "GPUs", "Used", "Models", "Age"]


def test_the_scale_subresource_reads_and_writes_replicas(api: RawApi, name: str) -> None:
    document = ollama_deployment(name, replicas=1)
    api.create(document)
    status = {"status": {"replicas": 1, "selector": "a=b"}}
    api.call("PATCH", f"{location(document)}/status", status, content_type=MERGE)
    scale = api.call("PATCH", f"{location(document)}/scale", {"spec": {"replicas": 3}}, content_type=MERGE)
    assert scale.code == 200
    assert scale.document["spec"] == {"replicas": 3}
    assert scale.document["status"] == {"replicas": 1, "selector": "a=b"}
    assert api.call("GET", location(document)).document["spec"]["replicas"] == 3
    too_many = api.call("PATCH", f"{location(document)}/scale", {"spec": {"replicas": 1001}}, content_type=MERGE)
    assert too_many.code == 422
    api.delete(document)


def test_the_status_is_written_through_its_subresource_only(api: RawApi, name: str) -> None:
    document = model_set(name)
    api.create(document)
    patched = api.call("PATCH", location(document), {"status": {"resolved": "1/1"}}, content_type=MERGE).document
    assert patched["status"] == {"observedGeneration": -1}
    assert patched["metadata"]["generation"] == 1
    api.delete(document)


def test_deployments_are_selected_by_version(api: RawApi, name: str) -> None:
    new, old = ollama_deployment(f"{name}-new"), ollama_deployment(f"{name}-old", version="0.24.0")
    api.create(new)
    api.create(old)
    found = api.call("GET", collection(old), fieldSelector="spec.version=0.24.0").document["items"]
    assert [item["metadata"]["name"] for item in found if item["metadata"]["name"].startswith(name)] == [f"{name}-old"]
    api.delete(new)
    api.delete(old)


def test_the_largest_model_set_stays_within_the_cost_of_its_rules(api: RawApi) -> None:
    entries = [
        {
            "name": f"{number:02d}-" + "n" * 77 + ":" + "t" * 40,
            "model": "h" * 100 + f"/ns/model:{number}@{DIGEST}",
            "modelfile": {"system": "s" * 1000, "parameters": {"stop": ["x" * 256] * 16}},
        }
        for number in range(64)
    ]
    document = model_set("largest", *entries)
    assert len(json.dumps(document)) > 300_000
    answer = api.create(document, dryRun="All")
    assert answer.code == 201, answer.message


@pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda kind: kind.kind)
def test_the_operator_reads_whatever_the_server_takes(api: RawApi, kind: Definition) -> None:
    """Random specs go to the server; what it stores, the models must read, and write back as it was.

    Rules across fields refuse most that are random throughout, so some are only in part: the rest is a valid one.
    """
    accepted = 0
    valid: Document = _valid(kind)["spec"]
    parts = st.sets(st.sampled_from(sorted(structural(kind.spec).get("properties", {})) or ["spec"]))

    @settings(max_examples=60, database=None)
    @given(whole=documents(structural(kind.spec)), part=st.none() | parts)
    def ask(whole: Document, part: set[str] | None) -> None:
        nonlocal accepted
        spec = whole if part is None else valid | {name: whole[name] for name in part & whole.keys()}
        metadata = {"name": "random", **({"namespace": "default"} if kind.namespaced else {})}
        document = {"apiVersion": names.API_VERSION, "kind": kind.kind, "metadata": metadata, "spec": spec}
        answer = api.create(document, dryRun="All")
        if answer.code == 201:
            accepted += 1
            wire = kind.spec.model_validate(answer.document["spec"]).to_wire()
            again = api.create({**document, "spec": wire}, dryRun="All")
            assert again.code == 201, again.message
        else:
            # Nothing but rules across fields, which the random specs do not look at.
            assert answer.code == 422, answer.document
            assert {what.partition(":")[0] for _, what in answer.causes} == {"Invalid value"}, answer.causes

    ask()
    assert accepted >= 5


def _valid(kind: Definition) -> Document:
    return {"OllamaDeployment": ollama_deployment, "ModelSet": model_set}.get(kind.kind, node_vram_report)()
