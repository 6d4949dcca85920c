/**
 * Reads the body of an answer to `fetch` as text; whoever sends it may mean us no good.
 * @param limit bytes
 * @returns undefined when it is longer: the rest is then not read
 */
export async function readAtMost(response: Response, limit: number): Promise<string | undefined> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of response.body ?? []) {
    length += chunk.length
    if (length > limit) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
