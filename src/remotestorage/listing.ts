import { etagOf } from './change.ts'
import { type Folder, factsOf, isFolder, nameOf, oidOf } from './folder.ts'
import { fromGitName } from './names.ts'

export const LISTING_TYPE = 'application/ld+json'
const CONTEXT = 'http://remotestorage.io/spec/folder-description'

/**
 * A folder's description (draft-dejong-remotestorage-26, section 4): documents with tag, type, length and time, folders
 * with their tag; tags without quotes. Put together as text, for a folder may hold tens of thousands.
 */
export function printListing(folder: Folder): string {
  const items: string[] = []
  for (const entry of folder.entries) {
    const name = fromGitName(nameOf(entry))
    if (isFolder(entry)) {
      items.push(`${JSON.stringify(`${name}/`)}:{"ETag":"${oidOf(entry)}"}`)
    } else if (entry.line !== undefined) {
      const facts = factsOf(entry)
      const { type, length, modified } = facts
      const described = {
        ETag: etagOf(entry, facts).slice(1, -1),
        'Content-Type': type,
        'Content-Length': length,
        'Last-Modified': new Date(modified).toUTCString(),
      }
      items.push(`${JSON.stringify(name)}:${JSON.stringify(described)}`)
    }
  }
  return `{"@context":"${CONTEXT}","items":{${items.join(',')}}}`
}
