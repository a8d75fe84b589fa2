"""Where evidence is kept and how it leaves: packs, receipts and containers. The engine and what is above import it."""

from fireline_controller.vault.disk import ChunkIndex as ChunkIndex
from fireline_controller.vault.packs import DiskFull as DiskFull
from fireline_controller.vault.plan import ChunkRange as ChunkRange
from fireline_controller.vault.receive import Receiving as Receiving
from fireline_controller.vault.vault import Recovery as Recovery
from fireline_controller.vault.vault import Vault as Vault
