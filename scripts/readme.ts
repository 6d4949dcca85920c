import { readFile, writeFile } from 'node:fs/promises'
import { agentSettingsMarkdown, settingsMarkdown } from '../src/config/settings-markdown.ts'

/** Writes the settings tables of README.md anew from the code; test/readme.test.ts checks that they agree. */
const readme = await readFile('README.md', 'utf8')
const tables = [settingsMarkdown(), agentSettingsMarkdown()]
let at = 0
const updated = readme.replace(
  /(\| (?:environment|git config) \|[^\n]*\n)(?:\|[^\n]*\n)+/g,
  () => tables[at++] as string,
)
await writeFile('README.md', updated)
