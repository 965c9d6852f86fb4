"""Requests to the API server through the `kubernetes` client, each made once: its users retry.

Bodies and answers are plain documents: the client's models would cost more than the requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.exceptions import ApiException

from kubebee import __version__
from kubebee.controller.kinds import Collection
from kubebee.errors import KubebeeError

FIELD_MANAGER = "kubebee"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
PAGE = 100
"""Objects for each request of a list: a thousand BpfNodes of twenty programs are 30 MB at once."""
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Objects without spec, status and data. Asked for the list's form, a watch ends with its first event."""
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_METHODS = {"apply": "PATCH", "patch": "PATCH", "create": "POST", "update": "PUT", "delete": "DELETE"}
_Timeout = tuple[float, float]


class ApiError(KubebeeError):
    """The API server did not do what it was asked for.

    Attributes:
        status: of HTTP; 0 if there was no answer.
        retry_after: seconds that the server asks to be left alone.
    """

    reason = "ApiUnavailable"
    may_pass = True

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        where: str = "",
        hint: str = "",
        status: int = 0,
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message, reason=reason, where=where, hint=hint)
        self.status = status
        self.retry_after = retry_after

    @property
    def overloaded(self) -> bool:
        """Other requests would fare no better now."""
        return self.status in (0, 429) or self.status >= 500


class _Page(msgspec.Struct, rename="camel"):
    metadata: dict[str, Any]
    items: list[msgspec.Raw] | None = None


Count = Callable[[str, str, str], None]


class Api:
    """The API server, as whoever the client's configuration says.

    Args:
        client: where it is and as whom it is asked.
        count: told of each request's verb, plural and answer's status, "0" for none.
        patience: seconds to wait for an answer.
    """

    def __init__(
        self,
        client: ApiClient,
        count: Count = lambda _verb, _plural, _code: None,
        patience: float = ANSWER_SECONDS,
    ) -> None:
        self._client = client
        self._count = count
        self._timeout = (min(CONNECT_SECONDS, patience), patience)

    def get(self, collection: Collection, name: str) -> dict[str, Any]:
        """One object.

        Raises:
            ApiError: it can't be read; status 404: there is none.
        """
        return _document(self._ask("get", collection, collection.named(name)))

    def pages(
        self, collection: Collection, accept: str = "application/json"
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """All objects, as the store has them at one moment.

        Yields:
            That moment's resourceVersion, and some of the objects.

        Raises:
            ApiError: they can't be read.
        """
        query = {**collection.query, "limit": str(PAGE)}
        while True:
            page = msgspec.json.decode(
                self._ask("list", collection, collection.path, query, accept=accept), type=_Page
            )
            yield (
                str(page.metadata["resourceVersion"]),
                [msgspec.json.decode(item) for item in page.items or ()],
            )
            if not page.metadata.get("continue"):
                return
            query["continue"] = page.metadata["continue"]

    def watch(
        self, collection: Collection, version: str, seconds: int, silence: float, accept: str
    ) -> Iterator[dict[str, Any]]:
        """Events of a collection from a version on, until the server ends it or says nothing for too long.

        Args:
            collection: what to watch.
            version: resourceVersion to go on from.
            seconds: how long the server shall keep it up.
            silence: seconds without an event or bookmark after which the connection counts as lost.
            accept: form of the objects.

        Raises:
            ApiError: it can't be watched.
        """
        query = {
            **collection.query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        response = self._open(
            "watch",
            collection,
            collection.path,
            query,
            None,
            accept=accept,
            timeout=(CONNECT_SECONDS, silence),
        )
        rest = b""
        try:
            with self._reached(collection):
                for chunk in response.stream(None, decode_content=False):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (msgspec.json.decode(line) for line in lines if line)
        finally:
            response.close()

    def apply(
        self, collection: Collection, document: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        """Server-side apply: what we say is so; what we said before and say no more is not.

        Args:
            collection: where the object is.
            document: apiVersion and kind are filled in; a metadata.uid refuses (409) any other object.
            subresource: such as status.

        Returns:
            The object as it is now.

        Raises:
            ApiError: it was refused, or there was no answer.
        """
        body = {"apiVersion": collection.api_version, "kind": collection.kind, **document}
        path = collection.named(document["metadata"]["name"], subresource)
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return _document(self._ask("apply", collection, path, query, msgspec.json.encode(body), _APPLY))

    def merge(
        self, collection: Collection, name: str, patch: Mapping[str, Any], subresource: str = ""
    ) -> dict[str, Any]:
        """Merge a patch into an object; with a metadata.resourceVersion it refuses (409) any other."""
        query = {"fieldManager": FIELD_MANAGER}
        path = collection.named(name, subresource)
        return _document(self._ask("patch", collection, path, query, dict(patch), _MERGE))

    def create(self, collection: Collection, document: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object; status 409: there is one of that name."""
        body = {"apiVersion": collection.api_version, "kind": collection.kind, **document}
        query = {"fieldManager": FIELD_MANAGER}
        return _document(self._ask("create", collection, collection.path, query, body, "application/json"))

    def replace(self, collection: Collection, document: Mapping[str, Any]) -> dict[str, Any]:
        """Put an object in place of that of its metadata.resourceVersion; status 409: it is another now."""
        path = collection.named(document["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER}
        return _document(self._ask("update", collection, path, query, dict(document), "application/json"))

    def delete(self, collection: Collection, name: str) -> None:
        """Delete an object, and in the background what it owns; none of that name is as good."""
        with contextlib.suppress(NotThere):
            self._ask("delete", collection, collection.named(name), {"propagationPolicy": "Background"})

    def served(self, group_version: str) -> frozenset[str]:
        """Plurals of the kinds that the server has in a group and version, none if it does not know it."""
        group = Collection(group_version, "", "")
        try:
            found = _document(self._ask("get", group, f"/apis/{group_version}"))
        except NotThere:
            return frozenset()
        return frozenset(str(each["name"]) for each in found.get("resources", ()))

    # -- one request -----------------------------------------------------------------------------------------

    def _ask(
        self,
        verb: str,
        collection: Collection,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "",
        accept: str = "application/json",
    ) -> bytes:
        response = self._open(verb, collection, path, query, body, content_type, accept)
        with self._reached(collection):
            return bytes(response.data)

    def _open(
        self,
        verb: str,
        collection: Collection,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str = "",
        accept: str = "application/json",
        timeout: _Timeout | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The response of a request that was not refused, its body not yet read."""
        method = _METHODS.get(verb, "GET")
        url = self._client.configuration.host.rstrip("/") + path
        url = f"{url}?{urlencode(query)}" if query else url
        headers = {"Accept": accept, "User-Agent": f"kubebee-controller/{__version__}"}
        if content_type:
            headers["Content-Type"] = content_type
        for auth in self._client.configuration.auth_settings().values():
            headers[auth["key"]] = auth["value"]
        code = 0
        try:
            with self._reached(collection):
                answer = self._client.rest_client.request(
                    method, url, headers=headers, body=body, _request_timeout=timeout or self._timeout
                )
                response: urllib3.BaseHTTPResponse = answer.response
                code = response.status
                if code >= 300:
                    raise _refused(verb, collection, path, response)
            return response
        finally:
            self._count(verb, collection.plural, str(code))

    @contextlib.contextmanager
    def _reached(self, collection: Collection) -> Iterator[None]:
        """What goes wrong on the way is an ApiError as well."""
        try:
            yield
        except (urllib3.exceptions.HTTPError, ApiException, OSError, msgspec.DecodeError) as error:
            why = str(getattr(error, "reason", "") or error) or type(error).__name__
            raise ApiError(
                f"the API server can't be reached: {why}",
                where=f"{self._client.configuration.host}{collection.path}",
                hint="what runs on the nodes goes on; it is tried again",
            ) from error


class NotThere(ApiError):  # noqa: N818 (an answer as good as any)
    """There is no such object."""


def _refused(verb: str, collection: Collection, path: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    said, status = response.data[:4096].decode(errors="replace"), response.status
    with contextlib.suppress(msgspec.DecodeError, AttributeError):
        said = msgspec.json.decode(response.data).get("message") or said
    retry_after = 0.0
    with contextlib.suppress(ValueError):
        retry_after = float(response.headers.get("Retry-After", "0"))
    kind = NotThere if status == 404 else ApiError
    return kind(
        f"it answers {verb} of {collection.plural} with {status}: {said.strip()[:500]}",
        reason="ApiUnavailable" if status == 429 or status >= 500 else "ApiRefused",
        where=path,
        hint="check the role of the controller's service account, and admission policies"
        if status in (401, 403)
        else "",
        status=status,
        retry_after=retry_after,
    )


def _document(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(raw)
    return found
