"""The operator's process: wins the Lease, fills the caches, runs kopf and the workers."""

import asyncio
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final

from ollama_fleet import __version__
from ollama_fleet.controllers.caches import Caches, build, connect, owners_on
from ollama_fleet.controllers.children import Children
from ollama_fleet.controllers.measurements import Measurements
from ollama_fleet.controllers.modelset import ModelSetController
from ollama_fleet.controllers.nodes import Nodes
from ollama_fleet.controllers.observer import Observer
from ollama_fleet.controllers.ollamadeployment import OllamaDeploymentController
from ollama_fleet.controllers.placement import Placer
from ollama_fleet.controllers.podservers import PodServers
from ollama_fleet.controllers.podwriter import PodWriter
from ollama_fleet.controllers.reports import Reports
from ollama_fleet.controllers.resolver import RegistryResolver
from ollama_fleet.handlers.options import Options, parse
from ollama_fleet.handlers.shell import run_shell
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.events import EventRecorder
from ollama_fleet.kube.informer import Handler
from ollama_fleet.kube.leader import REQUEST_TIMEOUT, LeaderThread
from ollama_fleet.kube.queue import Key, Priority, WorkQueue
from ollama_fleet.kube.transport import Json
from ollama_fleet.kube.workers import Reconcile, run_workers, stuck
from ollama_fleet.planning.request import ImagePolicy
from ollama_fleet.telemetry import logs
from ollama_fleet.telemetry.health import Health, Heartbeat, serve
from ollama_fleet.telemetry.metrics import OperatorMetrics

logger = logging.getLogger(__name__)

LOOP_LIMIT_SECONDS: Final = 30.0
RESYNC_SECONDS: Final = 600.0
_SAVE_SECONDS: Final = 30.0


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM; the exit code."""
    options = parse(arguments)
    logs.setup(log_format=options.log_format)
    logger.info("operator starts", extra={"version": __version__, "identity": options.identity})
    try:
        return asyncio.run(Operator(options).run())
    except errors.KubeError as error:
        # Without credentials nothing can be done; the kubelet starts the process again.
        logger.error("cannot reach the API server", extra={"error": str(error)})  # noqa: TRY400 - the trace says no more
        return 1


@dataclass(slots=True)
class Operator:
    """The process as one object."""

    options: Options
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)
    queue: WorkQueue = field(default_factory=WorkQueue)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    elected: asyncio.Event = field(default_factory=asyncio.Event)
    shell_beat: Heartbeat = field(default_factory=lambda: Heartbeat("kopf's thread", limit=LOOP_LIMIT_SECONDS))

    async def run(self) -> int:
        """Serve health at once, campaign, lead when elected, give the Lease back at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        client = await self._connect()
        caches = build(client)
        client.on_written = caches.wrote
        loop_beat = Heartbeat("the event loop", limit=LOOP_LIMIT_SECONDS)
        self.shell_beat.rest()
        health = Health(
            live={
                "loop": loop_beat.check,
                "workers": partial(stuck, self.queue),
                "kopf": self.shell_beat.check,
            },
            ready={"caches": partial(self._unsynced, caches)},
        )
        health.role = "standby"
        server, _ = await serve(health, self.metrics.answer, host="", port=self.options.health_port)
        leader = self._leader(loop)
        leader.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(loop_beat.run())
                leading = tasks.create_task(self._lead(client, caches, health))
                await self.stop.wait()
                beating.cancel()
                leading.cancel()
        finally:
            # Only now that nothing writes any more may another process lead.
            await asyncio.to_thread(leader.stop)
            await server.stop()
            await client.close()
        logger.info("operator stopped")
        return 0

    async def _connect(self, *, timeout: float = 15.0) -> KubeClient:
        return await KubeClient.connect(
            kubeconfig=self.options.kubeconfig,
            context=self.options.context,
            on_request=self.metrics.observe_request,
            timeout=timeout,
        )

    def _leader(self, loop: asyncio.AbstractEventLoop) -> LeaderThread:
        return LeaderThread(
            namespace=self.options.namespace,
            name=self.options.lease_name,
            identity=self.options.identity,
            connect=partial(self._connect, timeout=REQUEST_TIMEOUT),
            on_started=lambda: loop.call_soon_threadsafe(self.elected.set),
            # Another process may lead from now on: nothing here may write one more byte.
            on_lost=lambda: os._exit(1),
        )

    def _unsynced(self, caches: Caches) -> str | None:
        if not self.elected.is_set():
            return None
        missing = [informer.kind.plural for informer in caches.all() if not informer.synced.is_set()]
        return f"not yet listed: {', '.join(missing)}" if missing else None

    async def _lead(self, client: KubeClient, caches: Caches, health: Health) -> None:
        await self.elected.wait()
        logger.info("leading")
        health.role = "leader"
        self.metrics.set_leader(leading=True)
        self.metrics.watch_queue(self.queue)
        self.metrics.watch_caches({informer.kind.kind: informer for informer in caches.all()})
        events = EventRecorder(client, component="ollama-fleet-operator", instance=self.options.identity)
        self.metrics.watch_dropped_events(lambda: events.dropped)
        connect(caches, self.queue.add)
        reports = Reports(caches.reports, lambda node: self._report_changed(caches, node))
        reports.connect()
        measurements = Measurements(client, self.options.namespace, reports)
        reconcile = self._controllers(client, caches, events, measurements)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(events.run())
            for informer in caches.all():
                tasks.create_task(informer.run())
            for informer in caches.all():
                await informer.synced.wait()
            await measurements.load()
            logger.info("caches are filled", extra={i.kind.plural: len(i) for i in caches.all()})
            tasks.create_task(self._shell())
            tasks.create_task(self._resync(caches))
            tasks.create_task(reports.watch())
            tasks.create_task(_save(measurements))
            tasks.create_task(
                run_workers(self.queue, reconcile, self.options.workers, observe=self.metrics.observe_reconcile)
            )

    async def _shell(self) -> None:
        await run_shell(
            enqueue=lambda kind, namespace, name: self.queue.add(Key(kind, namespace, name)),
            on_started=lambda: logger.info("kopf watches"),
            stop=self.stop,
            heart=self.shell_beat,
            kubeconfig=self.options.kubeconfig,
            context=self.options.context,
        )

    def _report_changed(self, caches: Caches, node: str) -> None:
        for key in owners_on(caches, node):
            self.queue.add(key)

    async def _resync(self, caches: Caches) -> None:
        """Look at everything now and then, although nothing seems to have happened: the net below the net."""
        while True:
            await asyncio.sleep(RESYNC_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            for informer in (caches.ollama_deployments, caches.model_sets):
                for obj in informer.list():
                    metadata = obj["metadata"]
                    self.queue.add(Key(informer.kind, metadata["namespace"], metadata["name"]), priority=Priority.LOW)

    def _controllers(
        self, client: KubeClient, caches: Caches, events: EventRecorder, measurements: Measurements
    ) -> Reconcile:
        def now() -> datetime:
            return datetime.now(UTC)

        observer, children = Observer(caches, PodServers()), Children(client)
        pods = PodWriter(client, measurements.reports, events, now, agents=self.options.agents)
        placer = Placer(client, caches, children, now)
        deployments = OllamaDeploymentController(
            client=client,
            caches=caches,
            observer=observer,
            children=children,
            pods=pods,
            placer=placer,
            measurements=measurements,
            nodes=Nodes(caches, measurements.reports),
            events=events,
            policy=ImagePolicy(
                fleet_image=self.options.fleet_image,
                ollama_repository=self.options.ollama_repository,
                digests=self.options.ollama_digests,
            ),
            fleet_namespaces=tuple({self.options.namespace, *self.options.fleet_namespaces}),
            now=now,
        )
        of_pods = (observer.forget, pods.forget, placer.forget, measurements.forget)
        forget_the_gone(caches, children, deployments, of_pods)
        model_sets = ModelSetController(
            client=client, model_sets=caches.model_sets, resolver=RegistryResolver(client), events=events, now=now
        )
        by_kind: dict[str, Callable[[Key], Awaitable[float | None]]] = {
            kinds.OLLAMA_DEPLOYMENT.kind: deployments.reconcile,
            kinds.MODEL_SET.kind: model_sets.reconcile,
        }

        async def reconcile(key: Key) -> float | None:
            return await by_kind[key.kind.kind](key)

        return reconcile


async def _save(measurements: Measurements) -> None:
    """New measurements reach the ConfigMap within a minute; without any, nothing is written."""
    while True:
        await asyncio.sleep(_SAVE_SECONDS)
        await measurements.save()


def forget_the_gone(
    caches: Caches,
    children: Children,
    deployments: OllamaDeploymentController,
    of_pods: Iterable[Callable[[str], None]],
) -> None:
    """Free what is remembered of objects when they disappear; ``of_pods`` are told of pods."""

    def gone(forget: Callable[[str], None]) -> Handler:
        def handler(old: Json | None, new: Json | None) -> None:
            if old is not None and new is None:
                forget(old["metadata"]["uid"])

        return handler

    for forget in of_pods:
        caches.pods.add_handler(gone(forget))
    caches.ollama_deployments.add_handler(gone(deployments.forget))
    for informer in caches.children():
        informer.add_handler(gone(children.forget))
