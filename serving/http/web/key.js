// Sends requests with the API key; if the service requires one, asks the person for it once.
export const root = new URL("../", import.meta.url); // of the service, also below a path
let key = "";
let declined = false;

export async function authorised(path, options = {}) {
  const sent = key;
  const headers = { ...options.headers, ...(sent ? { "X-API-Key": sent } : {}) };
  const response = await fetch(new URL(path, root), { ...options, headers });
  if (response.status !== 401 || declined) return response;
  if (key === sent) key = prompt("This service requires an API key.") ?? ""; // else another request has just asked
  declined = !key;
  return declined ? response : authorised(path, options);
}
