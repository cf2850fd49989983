"""A real control plane: etcd, API server, controller manager and scheduler, on ports and in a directory of its own."""

import json
import secrets
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from testbed.build import KUBERNETES, ensure
from testbed.pki import Certificates
from testbed.ports import free_ports
from testbed.processes import Processes

SERVICES: Final = "10.96.0.0/16"
PODS: Final = "10.244.0.0/16"

_READY_SECONDS: Final = 60
_FAST_CLIENT: Final = ("--kube-api-qps=500", "--kube-api-burst=1000")
_CONCURRENT: Final = tuple(
    f"--concurrent-{kind}-syncs=50" for kind in ("deployment", "replicaset", "service-endpoint", "gc")
)

_OF_ENDPOINTS: Final = ("-endpoints-controller", "-endpointslice-controller", "-endpointslice-mirroring-controller")


class DifferentTestBed(Exception):
    """What stands in a state directory is not what is asked for now."""


class NotReady(Exception):
    """A component did not come up in time; the message names its log."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the components listen."""

    etcd: int
    peers: int
    api: int
    manager: int
    scheduler: int


@dataclass(slots=True)
class ControlPlane:
    """One control plane; ``up`` and ``down`` may be called in any order and any number of times."""

    state: Path
    address: str = "127.0.0.1"
    """Where the API server listens, and nowhere else: an address of the host that nodes and pods reach."""
    minor: str = KUBERNETES
    endpoints: bool = True
    """Whether Services get endpoints. Those of pods on loopback are refused and tried again up to 15 times each."""
    processes: Processes = field(init=False)

    def __post_init__(self) -> None:
        """Records of an earlier run in the directory are taken over."""
        self.processes = Processes(self.state)

    @property
    def kubeconfig(self) -> Path:
        """For kubectl and clients: full rights."""
        return self.state / "kubeconfig"

    @property
    def certificates(self) -> Certificates:
        """The authority that pods verify the API server with."""
        return Certificates(self.state / "pki")

    @property
    def url(self) -> str:
        """The API server."""
        return f"https://{self.address}:{self._ports().api}"

    @property
    def token(self) -> str:
        """The administrator's, with which ``kubeconfig`` has its rights too."""
        return self._tokens.read_text().partition(",")[0]

    @property
    def audit_log(self) -> Path:
        """One JSON object per request, with user, verb and resource."""
        return self.state / "audit.log"

    def up(self) -> None:
        """Start what does not run and wait until it answers. Raises NotReady, DifferentTestBed."""
        self.state.mkdir(parents=True, exist_ok=True)
        self._keep_kind()
        binaries = ensure(f"kubernetes-{self.minor}") / "bin"
        # Nobody else of the machine gets at keys and tokens, whatever the modes of the files.
        self.state.chmod(0o700)
        self.certificates.make({self.address, "127.0.0.1", "10.96.0.1"})
        self._write_files()
        self._start_etcd(binaries)
        self._start_api_server(binaries)
        self.wait_ready()
        # Earlier they would find no roles yet and exit for good.
        self._start_manager(binaries)
        self._start_scheduler(binaries)
        # Without it the API server refuses pods.
        self._wait("/api/v1/namespaces/default/serviceaccounts/default", "kube-controller-manager")

    def wait_ready(self) -> None:
        """Until the API server says it is ready. Raises NotReady."""
        self._wait("/readyz", "kube-apiserver")

    def _wait(self, path: str, component: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers(path):
            process = self.processes.get(component)
            if time.monotonic() > deadline or process is None or not process.alive:
                raise NotReady(f"{component} is not ready; see {self.processes.log(component)}")
            time.sleep(0.1)

    def down(self) -> None:
        """Stop every component. An API server waits long for its watches, and nothing here needs an orderly end."""
        self.processes.stop_all(grace=1)

    def _answers(self, path: str) -> bool:
        context = ssl.create_default_context(cafile=str(self.certificates.ca))
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _keep_kind(self) -> None:
        """What runs, and the certificates, are not made anew for another address or minor."""
        path = self.state / "made-as.json"
        wanted = {"address": self.address, "kubernetes": self.minor}
        if not path.exists():
            path.write_text(json.dumps(wanted))
        elif (made := json.loads(path.read_text())) != wanted:
            raise DifferentTestBed(f"{self.state.name} was made with {made}, not with {wanted}: take it down first")

    @property
    def _tokens(self) -> Path:
        return self.state / "tokens.csv"

    def _ports(self) -> Ports:
        path = self.state / "ports.json"
        if not path.exists():
            path.write_text(json.dumps(asdict(Ports(*free_ports(5)))))
        return Ports(**json.loads(path.read_text()))

    def _write_files(self) -> None:
        if not self._tokens.exists():
            self._tokens.write_text(f'{secrets.token_hex(16)},admin,1,"system:masters"\n')
        write_kubeconfig(self.kubeconfig, server=self.url, ca=self.certificates.ca, user={"token": self.token})
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata"}],
        }
        (self.state / "audit-policy.yaml").write_text(yaml.safe_dump(policy))

    def _start_etcd(self, binaries: Path) -> None:
        ports = self._ports()
        client, peer = f"http://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.peers}"
        arguments = {
            "data-dir": str(self.state / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "log-level": "warn",
        }
        self._start(binaries, "etcd", arguments, "--unsafe-no-fsync", endpoint=client)

    def _start_api_server(self, binaries: Path) -> None:
        ports, pki = self._ports(), self.certificates
        alone = self.address == "127.0.0.1"
        kubelet_client, kubelet_client_key = pki.client("kube-apiserver-kubelet-client", group="system:masters")
        arguments = {
            "etcd-servers": f"http://127.0.0.1:{ports.etcd}",
            "secure-port": str(ports.api),
            "bind-address": self.address,
            "advertise-address": self.address,
            # A loopback address cannot be the endpoint of the Service `kubernetes`; without pods nobody needs it.
            "endpoint-reconciler-type": "none" if alone else "lease",
            "tls-cert-file": str(pki.server),
            "tls-private-key-file": str(pki.server_key),
            "client-ca-file": str(pki.ca),
            "token-auth-file": str(self.state / "tokens.csv"),
            "service-account-key-file": str(pki.service_accounts),
            "service-account-signing-key-file": str(pki.service_accounts),
            "service-account-issuer": "https://kubernetes.default.svc",
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "service-cluster-ip-range": SERVICES,
            "kubelet-preferred-address-types": "InternalIP",
            "kubelet-client-certificate": str(kubelet_client),
            "kubelet-client-key": str(kubelet_client_key),
            "audit-policy-file": str(self.state / "audit-policy.yaml"),
            "audit-log-path": str(self.audit_log),
        }
        self._start(binaries, "kube-apiserver", arguments, "--allow-privileged=true", endpoint=self.url)

    def _start_manager(self, binaries: Path) -> None:
        arguments = {
            **self._client_arguments(self._ports().manager),
            "service-account-private-key-file": str(self.certificates.service_accounts),
            "root-ca-file": str(self.certificates.ca),
            # Nodes bring their own pod subnets; one outside of a common range would end the allocator, and all with it.
            "allocate-node-cidrs": "false",
            "controllers": "*" if self.endpoints else ",".join(("*", *_OF_ENDPOINTS)),
        }
        flags = ("--use-service-account-credentials", *_FAST_CLIENT, *_CONCURRENT)
        self._start(binaries, "kube-controller-manager", arguments, *flags)

    def _start_scheduler(self, binaries: Path) -> None:
        self._start(binaries, "kube-scheduler", self._client_arguments(self._ports().scheduler), *_FAST_CLIENT)

    def _client_arguments(self, port: int) -> dict[str, str]:
        config = str(self.kubeconfig)
        return {
            "kubeconfig": config,
            "authentication-kubeconfig": config,
            "authorization-kubeconfig": config,
            "bind-address": "127.0.0.1",
            "secure-port": str(port),
            "cert-dir": str(self.state / "pki"),
            "leader-elect": "false",
        }

    def _start(self, binaries: Path, name: str, arguments: dict[str, str], *flags: str, endpoint: str = "") -> None:
        command: list[str | Path] = [binaries / name, *(f"--{key}={value}" for key, value in arguments.items()), *flags]
        self.processes.start(name, command, endpoint=endpoint)


def write_kubeconfig(path: Path, *, server: str, ca: Path, user: dict[str, Any]) -> None:
    """A kubeconfig with one context."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority": str(ca)}}],
        "users": [{"name": "testbed", "user": user}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
        "current-context": "testbed",
    }
    path.write_text(yaml.safe_dump(document))
