"""Where evidence is kept and how it leaves: packs, receipts and containers. The engine and what is above import it."""

from fireline_controller.vault.container import export as export
from fireline_controller.vault.disk import ChunkIndex as ChunkIndex
from fireline_controller.vault.importing import import_container as import_container
from fireline_controller.vault.kept import verify_kept as verify_kept
from fireline_controller.vault.packs import DiskFull as DiskFull
from fireline_controller.vault.plan import ChunkRange as ChunkRange
from fireline_controller.vault.receipts import evidence_id as evidence_id
from fireline_controller.vault.receipts import receipt as receipt
from fireline_controller.vault.receive import Receiving as Receiving
from fireline_controller.vault.statements import Signer as Signer
from fireline_controller.vault.vault import Recovery as Recovery
from fireline_controller.vault.vault import Vault as Vault
from fireline_controller.vault.verify import VerifyReport as VerifyReport
from fireline_controller.vault.verify import verify_container as verify_container
