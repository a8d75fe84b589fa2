"""Keys of further operators: `operators/NAME.key` and `.pem` in the authority's folder, or a folder to hand over."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fireline_controller.model import StoreError
from fireline_controller.pki import folder as folders


@dataclass(frozen=True)
class OperatorKeys:
    """The keys that are kept in an authority's folder, `authority`."""

    authority: Path

    @property
    def folder(self) -> Path:
        """Where they are; made with the first."""
        return self.authority / "operators"

    def names(self) -> Sequence[str]:
        """Whose keys are here, sorted."""
        return sorted(path.name.removesuffix(".pem") for path in self.folder.glob("*.pem"))

    def chain(self, name: str) -> bytes:
        """The certificate of an operator, leaf first, PEM.

        Raises:
            StoreError: it can't be read.
        """
        path = self.folder / f"{name}.pem"
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: can't be read: {error.strerror}") from None

    def keep(self, name: str, key_pem: bytes, chain_pem: bytes) -> None:
        """Keep the key of an operator who works on this machine, in place of a former one of the name.

        Raises:
            StoreError: it can't be written.
        """
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder}: can't be made: {error.strerror}") from None
        folders.replace(self.folder / f"{name}.key", key_pem)
        folders.replace(self.folder / f"{name}.pem", chain_pem)

    def replace_chain(self, name: str, chain_pem: bytes) -> None:
        """Put a renewed certificate in place of the old one.

        Raises:
            StoreError: it can't be written.
        """
        folders.replace(self.folder / f"{name}.pem", chain_pem)

    def remove(self, name: str) -> None:
        """Forget an operator's key, if it is here."""
        for suffix in ("pem", "key"):
            (self.folder / f"{name}.{suffix}").unlink(missing_ok=True)


def hand_over(folder: Path, key_pem: bytes, chain_pem: bytes, ca_pem: bytes) -> None:
    """Write the key folder of an operator who works elsewhere; it appears whole or not at all.

    Raises:
        ConfigError: there is something already.
        StoreError: it can't be written.
    """
    folders.write_new(folder, {"operator.key": key_pem, "operator.pem": chain_pem, "ca.pem": ca_pem})
