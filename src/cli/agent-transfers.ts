/** What the agent's engine loads: all that moves bytes. */

import type { TransferSettings } from '../agent/transfers.ts'
import { parseAgentSettings } from '../config/agent-settings.ts'

export { serveEngine } from '../agent/engine.ts'
export { GitEnvironment } from '../agent/git-environment.ts'
export { openTransfers } from '../agent/transfers.ts'
export { WorkAhead } from '../agent/work-ahead.ts'

/** The agent's settings out of git's configuration. git-lfs's own limits on tries hold for us as well. */
export function agentSettings(config: ReadonlyMap<string, string>): TransferSettings {
  return {
    ...parseAgentSettings(config),
    retries: wholeNumber(config.get('lfs.transfer.maxretries')) ?? 8,
    maxDelay: wholeNumber(config.get('lfs.transfer.maxretrydelay')) ?? 10,
  }
}

/** git-lfs falls back to its default where the value is no whole number above zero. */
function wholeNumber(text: string | undefined): number | undefined {
  return text !== undefined && /^[1-9]\d{0,4}$/.test(text) ? Number(text) : undefined
}
